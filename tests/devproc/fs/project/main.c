#include "sums.h"

#define READ 63
#define WRITE 64

long call(long number, long one, const void *two, long three);

static byte input[4096];

static void say(u64 value) {
    byte text[21];
    int at = 20;
    text[at] = '\n';
    do {
        text[--at] = '0' + value % 10;
    } while (value /= 10);
    call(WRITE, 1, text + at, 21 - at);
}

int main(void) {
    u32 crc = 0;
    u64 count = 0, size = 0;
    int inside = 0;
    long got;
    while ((got = call(READ, 0, input, sizeof input)) > 0) {
        crc = crc32(crc, input, got);
        count += words(input, got, &inside);
        size += got;
    }
    say(crc);
    say(count);
    say(size);
    return got != 0;
}
