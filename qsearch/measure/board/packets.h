/* Packets of TVM's RPC protocol, little-endian: bytes u64, code i32, then values, each after its type. */
#ifndef QS_PACKETS_H
#define QS_PACKETS_H
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { SHUTDOWN = 1, INIT_SERVER, CALL_FUNC, RETURN, EXCEPTION, GET_GLOBAL_FUNC = 9, FREE_HANDLE };
enum { NONE, INTEGER, BOOLEAN, FLOATING, POINTER, RAW_STRING = 8, BYTE_ARRAY, SMALL_STRING = 11, OBJECTS = 64,
       STRING, BYTES };

typedef struct {
  uint64_t number;
  const char *data;
  size_t size;
} value;

typedef struct {
  char *data;
  size_t size, at;
} packet;

static int send_all(int to, const void *data, size_t size) {
  for (const char *at = data; size > 0;) {
    ssize_t sent = send(to, at, size, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return -1;
    at += sent;
    size -= (size_t)sent;
  }
  return 0;
}

static int receive_all(int from, void *data, size_t size) {
  for (char *at = data; size > 0;) {
    ssize_t got = recv(from, at, size, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return -1;
    at += got;
    size -= (size_t)got;
  }
  return 0;
}

static int receive_packet(int from, packet *in) {
  uint64_t size;
  free(in->data);
  *in = (packet){0};
  if (receive_all(from, &size, 8) || size < 4 || size > UINT32_C(1) << 30) return -1;
  in->data = malloc((size_t)size);
  in->size = (size_t)size;
  return in->data == NULL ? -1 : receive_all(from, in->data, in->size);
}

/* Past the end there are zeros. */
static void take(packet *in, void *to, size_t size) {
  memset(to, 0, size);
  if (size > in->size - in->at) {
    in->at = in->size;
    return;
  }
  memcpy(to, in->data + in->at, size);
  in->at += size;
}

static uint32_t take_u32(packet *in) {
  uint32_t word;
  take(in, &word, 4);
  return word;
}

static uint64_t take_u64(packet *in) {
  uint64_t word;
  take(in, &word, 8);
  return word;
}

static int take_text(packet *in, value *to) {
  uint64_t size = take_u64(in);
  if (size > in->size - in->at) return -1;
  *to = (value){0, in->data + in->at, (size_t)size};
  in->at += (size_t)size;
  return 0;
}

/* Up to `most` values; how many there were, or -1 for more or for a type that no function here takes. */
static int take_values(packet *in, value *values, int most) {
  int count = (int)take_u32(in);
  if (count < 0 || count > most) return -1;
  for (int i = 0; i < count; i++) {
    int type = (int)take_u32(in);
    int text = type == RAW_STRING || type == BYTE_ARRAY;
    if (type >= OBJECTS || type == SMALL_STRING || type == SMALL_STRING + 1) {
      int object = (int)take_u32(in);
      if (object != STRING && object != BYTES) return -1;
      text = 1;
    }
    if (text ? take_text(in, &values[i]) != 0 : type < INTEGER || type > POINTER) return -1;
    if (!text) values[i].number = take_u64(in);
  }
  return count;
}

static int take_version(packet *in) {
  value version;
  return take_text(in, &version) == 0 && version.size == 5 && memcmp(version.data, "0.8.0", 5) == 0;
}

static int send_packet(int to, int32_t code, const void *body, size_t body_size, const void *data, size_t size) {
  uint64_t bytes = sizeof code + body_size + size;
  return send_all(to, &bytes, 8) || send_all(to, &code, 4) || send_all(to, body, body_size) ||
         (size && send_all(to, data, size));
}

#pragma pack(push, 4)
typedef struct {
  int32_t count, type;
  uint64_t number;
} one_value;
typedef struct {
  int32_t count, first;
  int64_t kind; /* a call returns the type of its result first */
  int32_t type;
  uint64_t number;
} two_values;
#pragma pack(pop)

/* The answer to INIT_SERVER and FREE_HANDLE. */
static int send_none(int to) { return send_packet(to, RETURN, (int32_t[]){1, NONE}, 8, NULL, 0); }

/* The result of a call without one. */
static int send_no_result(int to) { return send_packet(to, RETURN, (int32_t[]){2, INTEGER, 0, 0, NONE}, 20, NULL, 0); }

static int send_handle(int to, uint64_t handle) {
  return send_packet(to, RETURN, &(one_value){1, POINTER, handle}, sizeof(one_value), NULL, 0);
}

static int send_integer(int to, int64_t number) {
  two_values body = {2, INTEGER, INTEGER, INTEGER, (uint64_t)number};
  return send_packet(to, RETURN, &body, sizeof body, NULL, 0);
}

static int send_bytes(int to, const char *data, size_t size) {
  two_values body = {2, INTEGER, BYTES, BYTE_ARRAY, size};
  return send_packet(to, RETURN, &body, sizeof body, data, size);
}

static int send_exception(int to, const char *text) {
  one_value body = {1, RAW_STRING, strlen(text)};
  return send_packet(to, EXCEPTION, &body, sizeof body, text, strlen(text));
}
#endif
