// Strings, memory, numbers and printing: what a C library would have.
#include "guest.h"

void *memcpy(void *to, const void *from, size_t n) {
  uint8_t *t = to;
  const uint8_t *f = from;
  if ((((uintptr_t)t | (uintptr_t)f) & 7) == 0)
    for (; n >= 8; n -= 8, t += 8, f += 8)
      *(uint64_t *)t = *(const uint64_t *)f;
  while (n--)
    *t++ = *f++;
  return to;
}

void *memset(void *to, int byte, size_t n) {
  uint8_t *t = to;
  uint64_t word = (uint8_t)byte * 0x0101010101010101UL;
  if (((uintptr_t)t & 7) == 0)
    for (; n >= 8; n -= 8, t += 8)
      *(uint64_t *)t = word;
  while (n--)
    *t++ = (uint8_t)byte;
  return to;
}

int memcmp(const void *a, const void *b, size_t n) {
  const uint8_t *x = a, *y = b;
  for (; n--; x++, y++)
    if (*x != *y)
      return *x - *y;
  return 0;
}

size_t strlen(const char *s) {
  size_t n = 0;
  while (s[n])
    n++;
  return n;
}

int strcmp(const char *a, const char *b) {
  while (*a && *a == *b)
    a++, b++;
  return (uint8_t)*a - (uint8_t)*b;
}

int strncmp(const char *a, const char *b, size_t n) {
  while (n && *a && *a == *b)
    a++, b++, n--;
  return n ? (uint8_t)*a - (uint8_t)*b : 0;
}

static int digit(char c) {
  if (c >= '0' && c <= '9')
    return c - '0';
  c |= 0x20;
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : 99;
}

bool parse_number(const char *s, uint64_t *value) {
  uint64_t base = 10, n = 0;
  if (s[0] == '0' && (s[1] | 0x20) == 'x')
    base = 16, s += 2;
  if (digit(*s) >= (int)base)
    return false;
  for (; digit(*s) < (int)base; s++)
    n = n * base + digit(*s);
  static const struct { char suffix; int shift; } units[] = {{'k', 10}, {'m', 20}, {'g', 30}};
  for (size_t i = 0; i < ARRAY_SIZE(units); i++)
    if ((*s | 0x20) == units[i].suffix) {
      n <<= units[i].shift;
      s++;
      break;
    }
  *value = n;
  return *s == 0;
}

static void put_padded(const char *s, int n, int width, bool left, char pad) {
  for (int i = n; !left && i < width; i++)
    uart_put(pad);
  for (int i = 0; i < n; i++)
    uart_put(s[i]);
  for (int i = n; left && i < width; i++)
    uart_put(' ');
}

static void put_number(uint64_t n, bool negative, uint64_t base, int width, bool left, char pad) {
  char text[24];
  int at = sizeof text;
  do
    text[--at] = "0123456789abcdef"[n % base];
  while (n /= base);
  if (negative)
    text[--at] = '-';
  put_padded(text + at, sizeof text - at, width, left, pad);
}

static void vprint(const char *format, va_list arguments) {
  for (; *format; format++) {
    if (*format != '%') {
      if (*format == '\n')
        uart_put('\r');
      uart_put(*format);
      continue;
    }
    bool left = false, wide = false;
    char pad = ' ';
    int width = 0;
    for (format++; *format == '-' || *format == '0'; format++)
      *format == '-' ? (left = true) : (pad = '0');
    for (; *format >= '0' && *format <= '9'; format++)
      width = width * 10 + *format - '0';
    for (; *format == 'l'; format++)
      wide = true;
    switch (*format) {
    case 'd': {
      int64_t n = wide ? va_arg(arguments, int64_t) : va_arg(arguments, int);
      put_number(n < 0 ? -(uint64_t)n : (uint64_t)n, n < 0, 10, width, left, pad);
      break;
    }
    case 'u':
    case 'x': {
      uint64_t n = wide ? va_arg(arguments, uint64_t) : va_arg(arguments, unsigned);
      put_number(n, false, *format == 'x' ? 16 : 10, width, left, pad);
      break;
    }
    case 's': {
      const char *s = va_arg(arguments, const char *);
      put_padded(s, strlen(s), width, left, ' ');
      break;
    }
    case 'c':
      uart_put(va_arg(arguments, int));
      break;
    default:
      uart_put(*format);
    }
  }
}

void print(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vprint(format, arguments);
  va_end(arguments);
}

_Noreturn void panic(const char *format, ...) {
  interrupts_off();
  print("\npanic: ");
  va_list arguments;
  va_start(arguments, format);
  vprint(format, arguments);
  va_end(arguments);
  print("\n");
  finish(255);
}

void hexdump(const void *data, size_t n, uint64_t address) {
  const uint8_t *bytes = data;
  for (size_t line = 0; line < n; line += 16) {
    size_t count = MIN(n - line, 16);
    print("%08lx  ", address + line);
    for (size_t i = 0; i < 16; i++)
      i < count ? print("%02x%s", bytes[line + i], i == 7 ? "  " : " ") : print(i == 7 ? "    " : "   ");
    print(" |");
    for (size_t i = 0; i < count; i++)
      uart_put(bytes[line + i] >= 0x20 && bytes[line + i] < 0x7f ? bytes[line + i] : '.');
    print("|\n");
  }
}

uint32_t crc32(uint32_t crc, const void *data, size_t n) {
  static uint32_t table[256];
  if (!table[1])
    for (uint32_t i = 0; i < 256; i++) {
      uint32_t c = i;
      for (int bit = 0; bit < 8; bit++)
        c = c & 1 ? (c >> 1) ^ 0xedb88320 : c >> 1;
      table[i] = c;
    }
  const uint8_t *bytes = data;
  for (crc = ~crc; n--; bytes++)
    crc = (crc >> 8) ^ table[(crc ^ *bytes) & 0xff];
  return ~crc;
}
