/* An RPC server for boards without Python. It speaks TVM's RPC protocol 0.8.0 as far as files and commands need it:
 * tvm.rpc.server.upload, .download, .remove and qsearch.run(timeout_ms). One session at a time, each in a process and
 * a folder of its own. RPC has no authentication: whoever reaches the port runs commands here. */
#include "exec.h"

#include <arpa/inet.h>
#include <ftw.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "packets.h"

enum { MAGIC = 0xff271, MISMATCH = MAGIC + 2, TRACKER_MAGIC = 0x2f271, PING_MS = 2000, PATIENCE = 3 };
enum { UPLOAD = 1, DOWNLOAD, REMOVE, RUN };

static const char *const functions[] = {[UPLOAD] = "tvm.rpc.server.upload",
                                        [DOWNLOAD] = "tvm.rpc.server.download",
                                        [REMOVE] = "tvm.rpc.server.remove",
                                        [RUN] = "qsearch.run"};
static char folder[256];

static void path_of(const value *name, char path[1024]) {
  const char *slash = memrchr(name->data, '/', name->size), *base = slash ? slash + 1 : name->data;
  snprintf(path, 1024, "%s/%.*s", folder, (int)(name->size - (size_t)(base - name->data)), base);
}

static int answer_upload(int client, const value *arguments) {
  char path[1024];
  path_of(&arguments[0], path);
  FILE *file = fopen(path, "wb");
  size_t written = file ? fwrite(arguments[1].data, 1, arguments[1].size, file) : 0;
  if (file == NULL || fclose(file) || written != arguments[1].size) return send_exception(client, "cannot write a file");
  return send_no_result(client);
}

static int answer_download(int client, const value *name) {
  char path[1024];
  struct stat info;
  path_of(name, path);
  FILE *file = fopen(path, "rb");
  if (file == NULL || fstat(fileno(file), &info)) return send_exception(client, "cannot read a file");
  char *data = malloc((size_t)info.st_size + 1);
  size_t size = data ? fread(data, 1, (size_t)info.st_size, file) : 0;
  fclose(file);
  int status = data ? send_bytes(client, data, size) : send_exception(client, "no memory");
  free(data);
  return status;
}

static int answer_call(int client, packet *in) {
  value arguments[2] = {0};
  uint64_t function = take_u64(in);
  int count = take_values(in, arguments, 2);
  if (function == UPLOAD && count == 2) return answer_upload(client, arguments);
  if (function == DOWNLOAD && count == 1) return answer_download(client, arguments);
  if (function == RUN && count == 1) return send_integer(client, qs_exec(folder, (int64_t)arguments[0].number));
  if (function != REMOVE || count != 1) return send_exception(client, "this server has no such function");
  char path[1024];
  path_of(&arguments[0], path);
  return unlink(path) ? send_exception(client, "cannot remove a file") : send_no_result(client);
}

static int answer_lookup(int client, packet *in) {
  value name = {0};
  uint64_t found = 0;
  if (take_values(in, &name, 1) != 1) return send_exception(client, "a function has one name");
  for (uint64_t i = UPLOAD; i <= RUN; i++)
    if (strlen(functions[i]) == name.size && memcmp(functions[i], name.data, name.size) == 0) found = i;
  return send_handle(client, found);
}

/* Answers until the client ends the session or goes. */
static void serve(int client) {
  packet in = {0};
  while (receive_packet(client, &in) == 0) {
    int code = (int)take_u32(&in), status;
    if (code == SHUTDOWN) break;
    if (code == INIT_SERVER)
      status = take_version(&in) ? send_none(client) : send_exception(client, "this server speaks protocol 0.8.0");
    else if (code == CALL_FUNC)
      status = answer_call(client, &in);
    else if (code == GET_GLOBAL_FUNC)
      status = answer_lookup(client, &in);
    else
      status = code == FREE_HANDLE ? send_none(client) : send_exception(client, "this server only runs commands");
    if (status) break;
  }
}

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *at) {
  (void)info, (void)type, (void)at;
  return remove(path);
}

static void session(int client, int timeout_s) {
  const char *temporary = getenv("TMPDIR");
  snprintf(folder, sizeof folder, "%s/qsearch-board-XXXXXX", temporary ? temporary : "/tmp");
  if (mkdtemp(folder) == NULL) {
    perror(folder);
    return;
  }
  pid_t pid = fork();
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (timeout_s > 0) alarm((unsigned)timeout_s);
    serve(client);
    _exit(0);
  }
  int status;
  if (pid > 0) waitpid(pid, &status, 0);
  nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static int open_socket(const char *host, const char *port, int listening) {
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
  if (getaddrinfo(host, port, &hints, &found)) return -1;
  int yes = 1, s = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  int failed = listening ? bind(s, found->ai_addr, found->ai_addrlen) || listen(s, 4)
                         : connect(s, found->ai_addr, found->ai_addrlen);
  freeaddrinfo(found);
  if (!failed) return s;
  close(s);
  return -1;
}

/* Sends one JSON message to the tracker and receives the answer as text. */
static int ask(int tracker, const char *question, char *answer, size_t size) {
  uint32_t length = (uint32_t)strlen(question);
  if (send_all(tracker, &length, 4) || send_all(tracker, question, length)) return -1;
  if (receive_all(tracker, &length, 4) || length >= size || receive_all(tracker, answer, length)) return -1;
  answer[length] = 0;
  return 0;
}

static int enter(const char *host, const char *port, const char *key, int own_port) {
  char text[512], answer[64];
  uint32_t magic = TRACKER_MAGIC;
  int tracker = open_socket(host, port, 0);
  if (tracker < 0) return -1;
  snprintf(text, sizeof text, "[5, {\"key\": \"server:%s\", \"addr\": [null, %d]}]", key, own_port);
  if (send_all(tracker, &magic, 4) || receive_all(tracker, &magic, 4) || magic != TRACKER_MAGIC ||
      ask(tracker, text, answer, sizeof answer)) {
    close(tracker);
    return -1;
  }
  return tracker;
}

static int offer(int tracker, const char *key, const char *match, int own_port) {
  char text[1024], answer[64];
  snprintf(text, sizeof text, "[3, \"%s\", [%d, \"%s\"], null]", key, own_port, match);
  return ask(tracker, text, answer, sizeof answer);
}

/* Accepts the client that knows `match`; *timeout_s is what it asks for. */
static int welcome(int listener, const char *key, const char *match, int *timeout_s) {
  char found[1024], expected[600];
  uint32_t word;
  int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC), yes = 1;
  if (client < 0) return -1;
  setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  struct timeval patience = {5, 0}, none = {0, 0};
  setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  if (receive_all(client, &word, 4) || word != MAGIC || receive_all(client, &word, 4) || word >= sizeof found ||
      receive_all(client, found, word)) {
    close(client);
    return -1;
  }
  found[word] = 0;
  char *option = strstr(found, " -timeout=");
  *timeout_s = option ? atoi(option + strlen(" -timeout=")) : 0;
  found[strcspn(found, " ")] = 0;
  snprintf(expected, sizeof expected, "client:%s", match);
  int right = strcmp(found, expected) == 0;
  word = right ? MAGIC : MISMATCH;
  send_all(client, &word, 4);
  if (!right) {
    close(client);
    return -1;
  }
  snprintf(expected, sizeof expected, "server:%s", key);
  word = (uint32_t)strlen(expected);
  send_all(client, &word, 4);
  send_all(client, expected, word);
  setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &none, sizeof none);
  return client;
}

/* Offers this board at the tracker until one client has had its session, or the tracker is gone. */
static int one_client(int tracker, int listener, const char *key, int own_port) {
  static unsigned count;
  static char answer[1 << 16];
  char match[300];
  for (int unmatched = PATIENCE;;) {
    if (unmatched >= PATIENCE) { /* new, or given to a client that never came */
      snprintf(match, sizeof match, "%s:%d.%u", key, (int)getpid(), count++);
      if (offer(tracker, key, match, own_port)) return -1;
      unmatched = 0;
    }
    struct pollfd waiting = {listener, POLLIN, 0};
    if (poll(&waiting, 1, PING_MS) > 0) {
      int timeout_s, client = welcome(listener, key, match, &timeout_s);
      if (client < 0) continue;
      session(client, timeout_s);
      close(client);
      return 0;
    }
    if (ask(tracker, "[7]", answer, sizeof answer)) return -1;
    unmatched = strstr(answer, match) ? 0 : unmatched + 1;
  }
}

int main(int argc, char **argv) {
  const char *host = "127.0.0.1", *port = "0", *key = NULL;
  char *tracker_host = NULL, *tracker_port = NULL;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (strcmp(argv[i], "--host") == 0) host = argv[i + 1];
    if (strcmp(argv[i], "--port") == 0) port = argv[i + 1];
    if (strcmp(argv[i], "--key") == 0) key = argv[i + 1];
    if (strcmp(argv[i], "--tracker") == 0 && (tracker_port = strrchr(argv[i + 1], ':')) != NULL) {
      tracker_host = argv[i + 1];
      *tracker_port++ = 0;
    }
  }
  if (key == NULL || tracker_host == NULL || strlen(key) > 200) {
    fprintf(stderr, "usage: %s --tracker HOST:PORT --key KEY [--host 127.0.0.1] [--port 0]\n", argv[0]);
    return 2;
  }
  signal(SIGPIPE, SIG_IGN);
  struct sockaddr_storage address = {0};
  socklen_t length = sizeof address;
  int listener = open_socket(host, port, 1);
  if (listener < 0 || getsockname(listener, (struct sockaddr *)&address, &length)) {
    fprintf(stderr, "%s: cannot listen on %s port %s\n", argv[0], host, port);
    return 2;
  }
  int own_port = ntohs(address.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&address)->sin6_port
                                                     : ((struct sockaddr_in *)&address)->sin_port);
  fprintf(stderr, "listening on %s port %d\n", host, own_port);
  for (int tracker = -1;;) {
    if (tracker < 0 && (tracker = enter(tracker_host, tracker_port, key, own_port)) < 0) {
      sleep(1);
      continue;
    }
    if (one_client(tracker, listener, key, own_port) == 0) continue;
    close(tracker);
    tracker = -1;
  }
}
