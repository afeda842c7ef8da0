// Integer mix: a linked list reversed, searched and sorted; a matrix product; a state machine over text; a CRC of it all.
// The kinds of work CoreMark has.
#include "bench.h"

const char program_name[] = "mix";

#define ROUNDS 2000
#define NODES 256
#define SIDE 32

struct node {
  struct node *next;
  int32_t value;
};

static struct node nodes[NODES];
static int16_t left[SIDE][SIDE], right[SIDE][SIDE];
static int32_t product[SIDE][SIDE];

static NOINLINE struct node *reverse(struct node *list) {
  struct node *reversed = NULL;
  while (list) {
    struct node *next = list->next;
    list->next = reversed;
    reversed = list;
    list = next;
  }
  return reversed;
}

static NOINLINE struct node *find(struct node *list, int32_t value) {
  while (list && list->value != value)
    list = list->next;
  return list;
}

static NOINLINE struct node *merge(struct node *a, struct node *b) {
  struct node head = {0}, *tail = &head;
  while (a && b) {
    struct node **smaller = a->value <= b->value ? &a : &b;
    tail = tail->next = *smaller;
    *smaller = (*smaller)->next;
  }
  tail->next = a ? a : b;
  return head.next;
}

static NOINLINE struct node *sort(struct node *list) {
  if (!list || !list->next)
    return list;
  struct node *middle = list;
  for (struct node *end = list->next; end && end->next; end = end->next->next)
    middle = middle->next;
  struct node *second = middle->next;
  middle->next = NULL;
  return merge(sort(list), sort(second));
}

static uint64_t list_work(int round) {
  for (uint32_t i = 0; i < NODES; i++) {
    nodes[i].next = i + 1 < NODES ? &nodes[i + 1] : NULL;
    nodes[i].value = (i * 2654435761u >> 7) & 0x3ff;
  }
  struct node *list = reverse(nodes);
  struct node *found = find(list, round & 0x3ff);
  list = sort(list);
  return (found ? found - nodes : -1) + list->value;
}

static NOINLINE int32_t matrix_work(int32_t bias) {
  int32_t sum = 0;
  for (int i = 0; i < SIDE; i++)
    for (int j = 0; j < SIDE; j++) {
      int32_t cell = 0;
      for (int k = 0; k < SIDE; k++)
        cell += left[i][k] * right[k][j];
      product[i][j] = cell + bias;
      sum += cell >> 3;
    }
  return sum;
}

// Which of these are numbers? One state for each part of one.
static NOINLINE uint64_t scan(const char *text) {
  enum { START, INTEGER, SIGN, FRACTION, EXPONENT, EXPONENT_SIGN, EXPONENT_DIGITS, INVALID, STATES } state = START;
  uint32_t visits[STATES] = {0};
  for (; *text; text++) {
    char c = *text;
    int digit = c >= '0' && c <= '9', sign = c == '+' || c == '-';
    if (c == ',')
      state = START;
    else
      switch (state) {
      case START: state = digit ? INTEGER : sign ? SIGN : c == '.' ? FRACTION : INVALID; break;
      case SIGN: state = digit ? INTEGER : c == '.' ? FRACTION : INVALID; break;
      case INTEGER: state = digit ? INTEGER : c == '.' ? FRACTION : INVALID; break;
      case FRACTION: state = digit ? FRACTION : c == 'e' ? EXPONENT : INVALID; break;
      case EXPONENT: state = sign ? EXPONENT_SIGN : INVALID; break;
      case EXPONENT_SIGN: state = digit ? EXPONENT_DIGITS : INVALID; break;
      case EXPONENT_DIGITS: state = digit ? EXPONENT_DIGITS : INVALID; break;
      default: break;
      }
    visits[state]++;
  }
  uint64_t result = 0;
  for (int i = 0; i < STATES; i++)
    result = result * 31 + visits[i];
  return result;
}

static NOINLINE uint16_t crc16(uint64_t data, int bits, uint16_t crc) {
  for (int i = 0; i < bits; i++, data >>= 1)
    crc = (crc ^ data) & 1 ? crc >> 1 ^ 0xa001 : crc >> 1;
  return crc;
}

uint64_t work(void) {
  static const char text[] = "5012,1234,-874,+122,35.54400,.1234500,-110.700,+0.64400,5.500e+3,-.123e-2,-87e+832,T0.3,1e";
  uint64_t result = 0;
  for (int i = 0; i < SIDE * SIDE; i++) {
    left[i / SIDE][i % SIDE] = i * 7 + 3;
    right[i / SIDE][i % SIDE] = (i * 13) ^ 5;
  }
  for (int round = 0; round < ROUNDS; round++) {
    result = result * 3 + list_work(round);
    for (int i = 0; i < 40; i++)
      result = result * 3 + scan(text);
    left[round / SIDE % SIDE][round % SIDE] ^= round;
    result += matrix_work(round);
    for (int i = 0; i < 256; i++)
      result = crc16(product[i / SIDE][i % SIDE] + result, 16, result) + (result << 16);
  }
  return result;
}
