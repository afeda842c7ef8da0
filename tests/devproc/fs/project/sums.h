typedef unsigned char byte;
typedef unsigned int u32;
typedef unsigned long u64;

u32 crc32(u32 crc, const byte *data, u64 length);
u64 words(const byte *data, u64 length, int *inside);
