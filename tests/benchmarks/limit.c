/* What a broker can do for one connection: frames made beforehand, on a plain socket.
 *
 *     ./limit publish PORT QUEUE COUNT BYTES WINDOW    confirmed, persistent, mandatory messages, WINDOW of them unconfirmed
 *     ./limit consume PORT QUEUE COUNT BYTES WINDOW    with a prefetch of WINDOW; everything read is acknowledged at once
 *
 * Prints the seconds from the open channel to the last confirm or acknowledgement and the closed connection. Frames are
 * those of AMQP 0-9-1, section 2.3.5: type, channel, size, payload, 0xCE. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { FRAME_MAX = 131072, READ = 256 * 1024, WRITE = 256 * 1024 };
enum { METHOD = 1, HEADER = 2, BODY = 3, HEARTBEAT = 8 };
#define ID(class, method) ((uint32_t)(class) << 16 | (method))

typedef struct {
  unsigned char *bytes;
  size_t size, room;
} Buffer;

typedef struct {
  int type;
  uint32_t id, size; /* of a method: its class and number */
  const unsigned char *payload;
} Frame;

static int broker;
static unsigned char input[2 * READ];
static size_t filled, parsed;

static void fail(const char *what) {
  fprintf(stderr, "%s failed\n", what);
  exit(1);
}

static void add(Buffer *buffer, const void *bytes, size_t size) {
  if (buffer->size + size > buffer->room) {
    buffer->room = 2 * (buffer->size + size);
    if (!(buffer->bytes = realloc(buffer->bytes, buffer->room))) fail("realloc");
  }
  memcpy(buffer->bytes + buffer->size, bytes, size);
  buffer->size += size;
}

static void add_number(Buffer *buffer, uint64_t number, int size) {
  while (size--) {
    unsigned char byte = number >> 8 * size;
    add(buffer, &byte, 1);
  }
}

static void add_short(Buffer *buffer, const char *text) {
  add_number(buffer, strlen(text), 1);
  add(buffer, text, strlen(text));
}

static void add_frame(Buffer *buffer, int type, int channel, const Buffer *payload) {
  add_number(buffer, type, 1);
  add_number(buffer, channel, 2);
  add_number(buffer, payload->size, 4);
  add(buffer, payload->bytes, payload->size);
  add_number(buffer, 0xCE, 1);
}

static Buffer method(uint32_t id) {
  Buffer made = {0};
  add_number(&made, id, 4);
  return made;
}

static void send_all(const Buffer *buffer) {
  for (size_t sent = 0; sent < buffer->size;) {
    ssize_t count = send(broker, buffer->bytes + sent, buffer->size - sent, 0);
    if (count <= 0) fail("send");
    sent += count;
  }
}

static void send_method(int channel, const Buffer *payload) {
  Buffer frame = {0};
  add_frame(&frame, METHOD, channel, payload);
  send_all(&frame);
  free(frame.bytes);
}

/* Read what is there; wait for it if `block`. */
static void fill(int block) {
  memmove(input, input + parsed, filled - parsed);
  filled -= parsed;
  parsed = 0;
  ssize_t count = recv(broker, input + filled, sizeof input - filled, block ? 0 : MSG_DONTWAIT);
  if (count == 0) fail("recv: the broker closed the connection");
  if (count > 0) filled += count;
}

static uint64_t number_at(const unsigned char *bytes, int size) {
  uint64_t number = 0;
  while (size--) number = number << 8 | *bytes++;
  return number;
}

/* Parse the next frame; return 0 if it has not arrived whole. */
static int next_frame(Frame *frame) {
  const unsigned char *start = input + parsed;
  if (filled - parsed < 8) return 0;
  frame->size = number_at(start + 3, 4);
  if (filled - parsed < frame->size + 8u) return 0;
  frame->type = start[0];
  frame->payload = start + 7;
  frame->id = frame->type == METHOD ? number_at(frame->payload, 4) : 0;
  if (frame->id == ID(20, 40) || frame->id == ID(10, 50) || frame->id == ID(60, 50) || frame->id == ID(60, 120))
    fail("the broker closed the channel, returned or rejected a message: publishing");
  parsed += frame->size + 8;
  return 1;
}

static void expect(uint32_t id) {
  Frame frame;
  do {
    while (!next_frame(&frame)) fill(1);
  } while (frame.id != id);
}

static void login(int port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int on = 1;
  if ((broker = socket(AF_INET, SOCK_STREAM, 0)) < 0 || connect(broker, (struct sockaddr *)&address, sizeof address))
    fail("connect");
  setsockopt(broker, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  Buffer greeting = {0}, start_ok = method(ID(10, 11)), tune_ok = method(ID(10, 31)), open = method(ID(10, 40));
  add(&greeting, "AMQP\0\0\x09\x01", 8);
  send_all(&greeting);
  expect(ID(10, 10));
  add_number(&start_ok, 0, 4); /* no client properties */
  add_short(&start_ok, "PLAIN");
  add_number(&start_ok, 12, 4);
  add(&start_ok, "\0guest\0guest", 12);
  add_short(&start_ok, "en_US");
  send_method(0, &start_ok);
  expect(ID(10, 30));
  add_number(&tune_ok, 2047, 2);
  add_number(&tune_ok, FRAME_MAX, 4);
  add_number(&tune_ok, 0, 2); /* no heartbeats */
  send_method(0, &tune_ok);
  add_short(&open, "/");
  add_number(&open, 0, 2);
  send_method(0, &open);
  expect(ID(10, 41));
  Buffer channel = method(ID(20, 10));
  add_number(&channel, 0, 1);
  send_method(1, &channel);
  expect(ID(20, 11));
}

static void logout(void) {
  Buffer close = method(ID(10, 50));
  add_number(&close, 200, 2);
  add_number(&close, 0, 1);
  add_number(&close, 0, 4);
  send_method(0, &close);
  expect(ID(10, 51));
}

static Buffer message(const char *queue, long bytes) {
  Buffer made = {0}, publish = method(ID(60, 40)), header = {0};
  add_number(&publish, 0, 2);
  add_short(&publish, "");
  add_short(&publish, queue);
  add_number(&publish, 1, 1); /* mandatory */
  add_frame(&made, METHOD, 1, &publish);
  add_number(&header, 60, 2);
  add_number(&header, 0, 2);
  add_number(&header, bytes, 8);
  add_number(&header, 0x1000, 2); /* delivery-mode */
  add_number(&header, 2, 1);      /* persistent */
  add_frame(&made, HEADER, 1, &header);
  while (bytes > 0) {
    long size = bytes < FRAME_MAX - 8 ? bytes : FRAME_MAX - 8;
    Buffer body = {.bytes = calloc(1, size), .size = size};
    add_frame(&made, BODY, 1, &body);
    free(body.bytes);
    bytes -= size;
  }
  return made;
}

static void publish(const char *queue, long count, long bytes, long window) {
  Buffer select = method(ID(85, 10)), one = message(queue, bytes), many = {0};
  add_number(&select, 0, 1);
  send_method(1, &select);
  expect(ID(85, 11));
  do add(&many, one.bytes, one.size);
  while (many.size < WRITE);
  long confirmed = 0, sent = 0; /* messages */
  size_t offset = 0;            /* of the message that is being sent */
  while (confirmed < count) {
    long free = window - (sent - confirmed) < count - sent ? window - (sent - confirmed) : count - sent;
    struct pollfd ready = {.fd = broker, .events = POLLIN | (free > 0 ? POLLOUT : 0)};
    if (poll(&ready, 1, -1) < 0) fail("poll");
    if (ready.revents & POLLOUT) {
      size_t most = free * one.size - offset;
      ssize_t written = send(broker, many.bytes + offset, most < many.size - offset ? most : many.size - offset, MSG_DONTWAIT);
      if (written > 0) {
        sent += (offset + written) / one.size;
        offset = (offset + written) % one.size;
      }
    }
    if (ready.revents & POLLIN) fill(0);
    for (Frame frame; next_frame(&frame);)
      if (frame.id == ID(60, 80)) {
        int multiple = frame.payload[12] & 1;
        confirmed = multiple ? (long)number_at(frame.payload + 4, 8) : confirmed + 1;
      }
  }
}

static void consume(const char *queue, long count, long bytes, long window) {
  Buffer qos = method(ID(60, 10)), start = method(ID(60, 20)), ack = method(ID(60, 80));
  add_number(&qos, 0, 4);
  add_number(&qos, window, 2);
  add_number(&qos, 0, 1);
  send_method(1, &qos);
  expect(ID(60, 11));
  add_number(&start, 0, 2);
  add_short(&start, queue);
  add_short(&start, "");
  add_number(&start, 0, 1);
  add_number(&start, 0, 4);
  send_method(1, &start);
  expect(ID(60, 21));
  add_number(&ack, 0, 8);
  add_number(&ack, 1, 1); /* multiple */
  uint64_t received = 0, acknowledged = 0, missing = 0;
  while (received < (uint64_t)count) {
    for (Frame frame; next_frame(&frame);) {
      if (frame.type == HEADER && (missing = number_at(frame.payload + 4, 8)) != (uint64_t)bytes) fail("the size of a body");
      if (frame.type == BODY) missing -= frame.size;
      if ((frame.type == HEADER || frame.type == BODY) && !missing) received++;
    }
    if (received > acknowledged) {
      for (int at = 0; at < 8; at++) ack.bytes[4 + at] = received >> 8 * (7 - at); /* the first delivery's tag is 1 */
      send_method(1, &ack);
      acknowledged = received;
    }
    if (received < (uint64_t)count) fill(1);
  }
}

int main(int argc, char **argv) {
  struct timespec begin, end;
  if (argc != 7) fail("usage: limit publish|consume PORT QUEUE COUNT BYTES WINDOW:");
  login(atoi(argv[2]));
  clock_gettime(CLOCK_MONOTONIC, &begin);
  (strcmp(argv[1], "publish") ? consume : publish)(argv[3], atol(argv[4]), atol(argv[5]), atol(argv[6]));
  logout();
  clock_gettime(CLOCK_MONOTONIC, &end);
  printf("%f\n", (end.tv_sec - begin.tv_sec) + (end.tv_nsec - begin.tv_nsec) / 1e9);
  return 0;
}
