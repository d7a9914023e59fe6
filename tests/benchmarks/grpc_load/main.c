/* A gRPC load generator that is not the bottleneck: one thread, epoll, requests made once.
 *
 * Usage: grpc_load MODE PORT PID PATH REQUEST CONNECTIONS IN_FLIGHT SECONDS [REPLIES [OPEN_PATH OPEN_STREAMS]]
 *   MODE     call      each connection keeps IN_FLIGHT calls on the way, each with the one message REQUEST
 *                      (hex of the protobuf), each answered by REPLIES messages (1 by default)
 *            pingpong  each connection has IN_FLIGHT streams; the next message of one follows its reply
 *   PID      of the server, whose processor time is counted
 *   OPEN_STREAMS streams of OPEN_PATH are opened on each connection first, with one message that is
 *            answered by one, and left open while the calls are measured.
 * Prints one JSON object: calls, messages and bytes of messages a second, latency of a call or a round trip, the
 * server's processor seconds a second, the share of its core that this program used, and all messages that came.
 * The first second is warm-up.
 *
 * It reads frames and message prefixes and nothing else: a call that does not get REPLIES messages and then
 * END_STREAM is an error, so a status other than OK is one. Windows are 1 MiB a stream and 8 MiB a connection,
 * given back at half. Header blocks are those of a real client: indexed from the second one on.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define WARM_UP 1.0
#define BUFFER (1 << 20)
#define SLOTS 65536 /* of streams, by id: more than are ever open */
#define STREAM_WINDOW (1 << 20)
#define CONNECTION_WINDOW (8 << 20)
#define BUCKETS 1000000 /* one a microsecond */

enum { DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION };

struct stream {
    double sent_at;
    uint64_t missing;          /* bytes of the message that has begun */
    unsigned char prefix[5];
    unsigned prefix_have, messages;
    int64_t consumed;          /* window to give back */
};

struct connection {
    int fd;
    unsigned char *in, *out;
    size_t have, queued;
    uint32_t next_id, first_id;
    int64_t consumed, send_window;
    int indexed;
    unsigned open;             /* of the streams that stay open */
    struct stream *streams;
};

static int ping_pong, counting;
static unsigned in_flight, replies = 1, open_streams;
static const char *path, *open_path = "";
static char authority[32];
static unsigned char message[1 << 17];
static size_t message_size;
static uint64_t calls, messages, payload_bytes, all_messages;
static uint32_t *histogram;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void die(const char *why) {
    fprintf(stderr, "grpc_load: %s (errno %d: %s)\n", why, errno, strerror(errno));
    exit(1);
}

static uint32_t get32(const unsigned char *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static unsigned char *put32(unsigned char *p, uint32_t v) {
    *p++ = v >> 24, *p++ = v >> 16, *p++ = v >> 8, *p++ = v;
    return p;
}

/* -- sending ---------------------------------------------------------------- */

static void flush(struct connection *c) {
    size_t at = 0;
    while (at < c->queued) {
        ssize_t sent = send(c->fd, c->out + at, c->queued - at, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN) die("send failed");
            struct pollfd waiting = {c->fd, POLLOUT, 0};
            poll(&waiting, 1, 1000);
            continue;
        }
        at += sent;
    }
    c->queued = 0;
}

static void put_frame(struct connection *c, int kind, int flags, uint32_t id, const void *payload, size_t length) {
    if (c->queued + 9 + length > BUFFER) flush(c);
    unsigned char *p = c->out + c->queued;
    *p++ = length >> 16, *p++ = length >> 8, *p++ = length, *p++ = kind, *p++ = flags;
    p = put32(p, id);
    memcpy(p, payload, length);
    c->queued += 9 + length;
}

static void put_window_update(struct connection *c, uint32_t id, uint32_t increment) {
    unsigned char payload[4];
    put32(payload, increment);
    put_frame(c, WINDOW_UPDATE, 0, id, payload, 4);
}

/* A literal field: `first` is 0x40 with indexing, 0x00 without, plus the static index of the name. */
static unsigned char *literal(unsigned char *p, int indexing, int name_index, const char *name, const char *value) {
    int most = indexing ? 63 : 15;
    int first = indexing ? 0x40 : 0;
    if (name_index < most) *p++ = first | name_index;
    else *p++ = first | most, *p++ = name_index - most;
    if (!name_index) *p++ = strlen(name), p = (unsigned char *)stpcpy((char *)p, name);
    *p++ = strlen(value);
    return (unsigned char *)stpcpy((char *)p, value);
}

static void put_request_head(struct connection *c, uint32_t id, const char *target, int indexing) {
    static const unsigned char again[] = {0x83, 0x86, 0xc2, 0xc1, 0xc0, 0xbf, 0xbe};
    unsigned char block[512], *p = block;
    if (indexing && c->indexed) {
        put_frame(c, HEADERS, 0x4, id, again, sizeof again);
        return;
    }
    *p++ = 0x83, *p++ = 0x86; /* POST, http */
    p = literal(p, indexing, 4, ":path", target);
    p = literal(p, indexing, 1, ":authority", authority);
    p = literal(p, indexing, 31, "content-type", "application/grpc");
    p = literal(p, indexing, 0, "te", "trailers");
    p = literal(p, indexing, 58, "user-agent", "grpc-load/1.0");
    put_frame(c, HEADERS, 0x4, id, block, p - block);
    c->indexed |= indexing;
}

static void put_message(struct connection *c, uint32_t id, int flags) {
    size_t at = 0;
    c->send_window -= message_size;
    if (c->send_window < 0) die("the server gave no connection window back");
    while (message_size - at > 16384) {
        put_frame(c, DATA, 0, id, message + at, 16384);
        at += 16384;
    }
    put_frame(c, DATA, flags, id, message + at, message_size - at);
}

static void begin_call(struct connection *c, double at) {
    uint32_t id = c->next_id;
    struct stream *s = &c->streams[id / 2 % SLOTS];
    memset(s, 0, sizeof *s);
    s->sent_at = at;
    c->next_id += 2;
    put_request_head(c, id, path, 1);
    put_message(c, id, ping_pong ? 0 : 0x1);
}

static void begin_load(struct connection *c, double at) {
    c->first_id = c->next_id;
    for (unsigned i = 0; i < in_flight; i++) begin_call(c, at);
}

/* -- receiving -------------------------------------------------------------- */

static void measured(struct stream *s, double at) {
    if (!counting) return;
    uint64_t us = (at - s->sent_at) * 1e6;
    histogram[us < BUCKETS ? us : BUCKETS - 1]++;
    calls++;
}

static void on_data(struct connection *c, uint32_t id, const unsigned char *data, size_t length, double at) {
    c->consumed += length;
    if (c->consumed > CONNECTION_WINDOW / 2) put_window_update(c, 0, c->consumed), c->consumed = 0;
    if (!c->first_id) { /* still opening */
        if (length && ++c->open == open_streams) begin_load(c, at);
        return;
    }
    if (id < c->first_id) return;
    struct stream *s = &c->streams[id / 2 % SLOTS];
    s->consumed += length;
    if (s->consumed > STREAM_WINDOW / 2) put_window_update(c, id, s->consumed), s->consumed = 0;
    while (length) {
        size_t taken;
        if (s->missing) {
            taken = length < s->missing ? length : s->missing;
            s->missing -= taken;
            payload_bytes += counting ? taken : 0;
        } else {
            taken = 5 - s->prefix_have;
            if (taken > length) taken = length;
            memcpy(s->prefix + s->prefix_have, data, taken);
            s->prefix_have += taken;
            if (s->prefix_have == 5) s->missing = get32(s->prefix + 1);
        }
        data += taken;
        length -= taken;
        if (s->prefix_have == 5 && !s->missing) {
            s->prefix_have = 0;
            s->messages++;
            messages += counting;
            all_messages++;
            if (ping_pong) {
                measured(s, at);
                s->sent_at = at;
                put_message(c, id, 0);
            }
        }
    }
}

static void on_end(struct connection *c, uint32_t id, double at) {
    struct stream *s = &c->streams[id / 2 % SLOTS];
    if (id < c->first_id || ping_pong) die("the server ended a stream that should stay open");
    if (s->messages != replies) die("a call ended without its messages");
    measured(s, at);
    begin_call(c, at);
}

static void on_frame(struct connection *c, int kind, int flags, uint32_t id, unsigned char *payload, size_t length) {
    double at = now();
    switch (kind) {
    case DATA:
        on_data(c, id, payload, length, at);
        if (flags & 0x1) die("a response ended without trailers");
        break;
    case HEADERS:
        if (flags & 0x1) on_end(c, id, at);
        break;
    case SETTINGS:
        if (!(flags & 0x1)) put_frame(c, SETTINGS, 0x1, 0, "", 0);
        break;
    case PING:
        if (!(flags & 0x1)) put_frame(c, PING, 0x1, 0, payload, length);
        break;
    case WINDOW_UPDATE:
        if (!id) c->send_window += get32(payload) & 0x7fffffff;
        break;
    case RST_STREAM:
        if (get32(payload)) die("the server reset a stream");
        break;
    case GOAWAY:
        fprintf(stderr, "%.*s\n", (int)(length - 8), payload + 8);
        die("the server sent GOAWAY");
    }
}

static void on_readable(struct connection *c) {
    ssize_t got = recv(c->fd, c->in + c->have, BUFFER - c->have, 0);
    if (got == 0) die("the server closed the connection");
    if (got < 0) {
        if (errno == EAGAIN) return;
        die("recv failed");
    }
    c->have += got;
    size_t at = 0;
    while (c->have - at >= 9) {
        unsigned char *p = c->in + at;
        size_t length = (size_t)p[0] << 16 | p[1] << 8 | p[2];
        if (c->have - at < 9 + length) break;
        on_frame(c, p[3], p[4], get32(p + 5) & 0x7fffffff, p + 9, length);
        at += 9 + length;
    }
    memmove(c->in, c->in + at, c->have - at);
    c->have -= at;
    flush(c);
}

/* -- the run ---------------------------------------------------------------- */

static void connect_to(struct connection *c, int port) {
    static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address)) die("connect failed");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    c->in = malloc(BUFFER);
    c->out = malloc(BUFFER);
    c->streams = calloc(SLOTS, sizeof *c->streams);
    c->next_id = 1;
    c->send_window = 65535;
    memcpy(c->out, preface, sizeof preface - 1);
    c->queued = sizeof preface - 1;
    unsigned char settings[12] = {0, 2, 0, 0, 0, 0, 0, 4}; /* ENABLE_PUSH 0, INITIAL_WINDOW_SIZE */
    put32(settings + 8, STREAM_WINDOW);
    put_frame(c, SETTINGS, 0, 0, settings, sizeof settings);
    put_window_update(c, 0, CONNECTION_WINDOW - 65535);
    for (unsigned i = 0; i < open_streams; i++, c->next_id += 2) {
        put_request_head(c, c->next_id, open_path, 0);
        put_message(c, c->next_id, 0);
    }
    if (!open_streams) begin_load(c, now());
    flush(c);
}

static double percentile(double share) {
    uint64_t total = 0, seen = 0;
    for (int i = 0; i < BUCKETS; i++) total += histogram[i];
    for (int i = 0; i < BUCKETS; i++)
        if ((seen += histogram[i]) > total * share) return i;
    return 0;
}

static double cpu(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

/* Processor seconds of the server so far. */
static double server_cpu(const char *pid) {
    char name[64];
    unsigned long user = 0, system = 0;
    snprintf(name, sizeof name, "/proc/%s/stat", pid);
    FILE *file = fopen(name, "r");
    if (!file) die("no such server");
    if (fscanf(file, "%*d (%*[^)]) %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) != 2)
        die("cannot read the server's times");
    fclose(file);
    return (double)(user + system) / sysconf(_SC_CLK_TCK);
}

int main(int argc, char **argv) {
    if (argc < 9) die("see the comment at the top for the arguments");
    ping_pong = !strcmp(argv[1], "pingpong");
    int port = atoi(argv[2]), count = atoi(argv[6]);
    path = argv[4];
    size_t size = strlen(argv[5]) / 2;
    if (size + 5 > sizeof message) die("the request is too long");
    put32(message + 1, size);
    for (size_t i = 0; i < size; i++) sscanf(argv[5] + 2 * i, "%2hhx", message + 5 + i);
    message_size = size + 5;
    in_flight = atoi(argv[7]);
    double seconds = atof(argv[8]);
    if (argc > 9) replies = atoi(argv[9]);
    if (argc > 11) open_path = argv[10], open_streams = atoi(argv[11]);
    snprintf(authority, sizeof authority, "127.0.0.1:%d", port);
    histogram = calloc(BUCKETS, sizeof *histogram);

    int epoll = epoll_create1(0);
    struct connection *connections = calloc(count, sizeof *connections);
    for (int i = 0; i < count; i++) {
        connect_to(&connections[i], port);
        struct epoll_event event = {EPOLLIN, {.ptr = &connections[i]}};
        epoll_ctl(epoll, EPOLL_CTL_ADD, connections[i].fd, &event);
    }
    double start = now(), began = 0, cpu_began = 0, server_began = 0;
    for (;;) {
        struct epoll_event events[64];
        int ready = epoll_wait(epoll, events, 64, 5000);
        if (!ready) die("nothing came for 5 s");
        for (int i = 0; i < ready; i++) on_readable(events[i].data.ptr);
        double t = now();
        if (!counting && t - start >= WARM_UP) counting = 1, began = t, cpu_began = cpu(), server_began = server_cpu(argv[3]);
        if (counting && t - began >= seconds) {
            double passed = t - began;
            printf("{\"calls\": %.1f, \"messages\": %.1f, \"bytes\": %.0f, \"p50_us\": %.0f, \"p99_us\": %.0f, "
                   "\"server_busy\": %.3f, \"load_busy\": %.3f, \"all\": %llu}\n",
                   calls / passed, messages / passed, payload_bytes / passed, percentile(0.5), percentile(0.99),
                   (server_cpu(argv[3]) - server_began) / passed, (cpu() - cpu_began) / passed,
                   (unsigned long long)all_messages);
            return 0;
        }
    }
}
