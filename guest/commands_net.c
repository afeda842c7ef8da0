// Commands for the network card: how it is, how many queue pairs are used, and echo requests through each of them.
#include "drivers.h"
#include "guest.h"

#define REPLY_TIMEOUT (5 * TIMER_HZ)
#define OWN_ADDRESS 0x0a00020fU  // 10.0.2.15, what the network `user` gives its first guest
#define GATEWAY 0x0a000202U      // and what answers there
#define DATA_SIZE 32

enum { ARP = 0x0806, IPV4 = 0x0800, ICMP = 1, ECHO_REPLY = 0, ECHO_REQUEST = 8 };

static struct {
  volatile bool there, answered;
  uint8_t mac[6];
  uint16_t sequence, pair;
} reply;
static uint8_t frame[14 + 20 + 8 + DATA_SIZE];

static void put16(uint8_t *at, uint16_t value) { at[0] = value >> 8, at[1] = value; }
static void put32(uint8_t *at, uint32_t value) { put16(at, value >> 16), put16(at + 2, value); }
static uint16_t get16(const uint8_t *at) { return at[0] << 8 | at[1]; }

static uint16_t checksum(const uint8_t *data, uint32_t size) {
  uint32_t sum = 0;
  for (uint32_t i = 0; i < size; i += 2)
    sum += get16(data + i);
  while (sum >> 16)
    sum = (sum & 0xffff) + (sum >> 16);
  return ~sum;
}

static void heard(uint16_t pair, const uint8_t *data, uint32_t size) {
  const uint8_t *packet = data + 14;
  if (size >= 42 && get16(data + 12) == ARP && get16(packet + 6) == 2) {
    memcpy(reply.mac, packet + 8, 6);
    reply.there = true;
  } else if (size >= 42 && get16(data + 12) == IPV4 && packet[9] == ICMP && packet[20] == ECHO_REPLY) {
    reply.sequence = get16(packet + 26);
    reply.pair = pair;
    reply.answered = true;
  }
}

static void ethernet(const uint8_t *to, const uint8_t *from, uint16_t kind) {
  memset(frame, 0, sizeof frame);
  memcpy(frame, to, 6);
  memcpy(frame + 6, from, 6);
  put16(frame + 12, kind);
}

static bool is_set(void *flag) { return *(volatile bool *)flag; }

static bool resolve(const struct net_state *card, uint32_t address) {
  uint8_t everybody[6], *packet = frame + 14;
  memset(everybody, 0xff, 6);
  ethernet(everybody, card->mac, ARP);
  put16(packet, 1);  // Ethernet, IPv4, their sizes, request
  put16(packet + 2, IPV4);
  packet[4] = 6, packet[5] = 4;
  put16(packet + 6, 1);
  memcpy(packet + 8, card->mac, 6);
  put32(packet + 14, OWN_ADDRESS);
  put32(packet + 24, address);
  reply.there = false;
  return net_send(0, frame, 60) && wait_until(is_set, (void *)&reply.there, now() + REPLY_TIMEOUT);
}

static bool echo(const struct net_state *card, uint32_t address, uint16_t pair, uint16_t sequence) {
  uint8_t *packet = frame + 14, *message = packet + 20;
  ethernet(reply.mac, card->mac, IPV4);
  packet[0] = 0x45;
  put16(packet + 2, 20 + 8 + DATA_SIZE);
  packet[8] = 64;
  packet[9] = ICMP;
  put32(packet + 12, OWN_ADDRESS);
  put32(packet + 16, address);
  put16(packet + 10, checksum(packet, 20));
  message[0] = ECHO_REQUEST;
  put16(message + 4, 0xb0 + pair);
  put16(message + 6, sequence);
  for (int i = 0; i < DATA_SIZE; i++)
    message[8 + i] = 'a' + i % 26;
  put16(message + 2, checksum(message, 8 + DATA_SIZE));
  reply.answered = false;
  return net_send(pair, frame, sizeof frame) && wait_until(is_set, (void *)&reply.answered, now() + REPLY_TIMEOUT) &&
         reply.sequence == sequence;
}

static int network(int argc, char **argv) {
  uint64_t pairs;
  const struct net_state *card = net_state();
  if (!card) {
    print("there is no network card\n");
    return 1;
  }
  if (!argument_number(argc, argv, 1, 0, &pairs))
    return 2;
  if (argc > 1 && !net_use_pairs(MIN(pairs, 0xffff))) {
    print("net: the card does not use %lu pairs\n", pairs);
    return 1;
  }
  print("mac %02x:%02x:%02x:%02x:%02x:%02x  mtu %u  link %s  %u of %u queue pairs used\n", card->mac[0], card->mac[1],
        card->mac[2], card->mac[3], card->mac[4], card->mac[5], card->mtu, card->up ? "up" : "down", card->used,
        card->pairs);
  for (uint16_t pair = 0; pair < card->used; pair++)
    print("pair %u: %lu sent, %lu received\n", pair, card->sent[pair], card->received[pair]);
  return 0;
}

static int ping(int argc, char **argv) {
  uint64_t count;
  const struct net_state *card = net_state();
  if (!argument_number(argc, argv, 1, 3, &count))
    return 2;
  net_heard = heard;
  if (!card || !resolve(card, GATEWAY)) {
    print("ping: %s\n", card ? "nobody answers at 10.0.2.2" : "there is no network card");
    return 1;
  }
  int lost = 0;
  for (uint16_t pair = 0; pair < card->used; pair++) {
    uint32_t answered = 0, here = 0;
    for (uint16_t i = 0; i < count; i++)
      if (echo(card, GATEWAY, pair, i)) {
        answered++;
        here += reply.pair == pair;
      }
    print("pair %u: %u of %lu answered, %u of them here\n", pair, answered, count, here);
    lost += answered != count;
  }
  return lost != 0;
}

const struct command net_commands[] = {
    {"net", "[PAIRS]", "the network card; with PAIRS, use so many queue pairs", network},
    {"ping", "[COUNT]", "echo requests to 10.0.2.2 (--net user) through each queue pair in use", ping},
    {0},
};
