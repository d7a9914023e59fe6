/* A WebSocket load generator that is not the bottleneck: one thread, epoll, frames made once.
 *
 * Usage: ws_load MODE PORT PATH CONNECTIONS IN_FLIGHT SIZE SECONDS
 *   MODE  echo  text frames of SIZE bytes, each must come back with the same length
 *         hub   SignalR over WebSocket, JSON: invocations of Echo with a string of SIZE characters
 * Prints one JSON object. The first second is warm-up and is not counted.
 *
 * Every connection keeps IN_FLIGHT messages on the way: each reply is answered by the next message,
 * and all messages that one read allows leave in one write. Latency is from a message's write to
 * its reply, in order.
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
#define MAX_IN_FLIGHT 256
#define BUFFER (4 << 20)
#define BUCKETS 1000000 /* one a microsecond */

static const unsigned char KEY[4] = {0x37, 0xfa, 0x21, 0x3d}; /* RFC 6455 5.7's example */
static const char HANDSHAKE[] = "{\"protocol\":\"json\",\"version\":1}\x1e";

struct connection {
    int fd;
    unsigned char *buffer;
    size_t have;
    double sent_at[MAX_IN_FLIGHT]; /* ring, oldest at `oldest` */
    unsigned oldest, next_message;
};

static int hub_mode, in_flight, payload_size, counting;
static unsigned char *messages[MAX_IN_FLIGHT]; /* masked frames; a hub's differ in invocationId */
static size_t message_length[MAX_IN_FLIGHT];
static uint64_t replies;
static uint32_t *histogram;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void die(const char *why) {
    fprintf(stderr, "ws_load: %s (errno %d: %s)\n", why, errno, strerror(errno));
    exit(1);
}

static size_t make_frame(unsigned char *out, const char *payload, size_t length) {
    size_t head = 2;
    out[0] = 0x81; /* FIN, text */
    if (length < 126) {
        out[1] = 0x80 | length;
    } else if (length < 65536) {
        out[1] = 0x80 | 126;
        out[2] = length >> 8;
        out[3] = length & 255;
        head = 4;
    } else {
        out[1] = 0x80 | 127;
        for (int i = 0; i < 8; i++) out[2 + i] = (uint64_t)length >> (56 - 8 * i);
        head = 10;
    }
    memcpy(out + head, KEY, 4);
    for (size_t i = 0; i < length; i++) out[head + 4 + i] = payload[i] ^ KEY[i & 3];
    return head + 4 + length;
}

/* The first complete frame: its whole length, or 0 when more bytes are needed. */
static size_t next_frame(unsigned char *data, size_t have, int *opcode, unsigned char **payload, size_t *length) {
    size_t head = 2, size;
    if (have < 2) return 0;
    if (data[1] & 0x80) die("the server sent a masked frame");
    size = data[1];
    if (size == 126) {
        if (have < 4) return 0;
        size = (size_t)data[2] << 8 | data[3];
        head = 4;
    } else if (size == 127) {
        if (have < 10) return 0;
        size = 0;
        for (int i = 2; i < 10; i++) size = size << 8 | data[i];
        head = 10;
    }
    if (have < head + size) return 0;
    if (!(data[0] & 0x80)) die("the server sent a fragment");
    *opcode = data[0] & 15;
    *payload = data + head;
    *length = size;
    return head + size;
}

static void write_all(int fd, const unsigned char *data, size_t length) {
    while (length) {
        ssize_t sent = send(fd, data, length, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN) die("send failed");
            struct pollfd waiting = {fd, POLLOUT, 0};
            poll(&waiting, 1, 1000);
            continue;
        }
        data += sent;
        length -= sent;
    }
}

static void send_messages(struct connection *c, int count, double at) {
    static unsigned char batch[BUFFER];
    size_t length = 0;
    for (int i = 0; i < count; i++) {
        unsigned which = c->next_message++ % in_flight;
        if (length + message_length[which] > sizeof batch) {
            write_all(c->fd, batch, length);
            length = 0;
        }
        memcpy(batch + length, messages[which], message_length[which]);
        length += message_length[which];
        c->sent_at[which] = at;
    }
    write_all(c->fd, batch, length);
}

static void count_reply(struct connection *c, double at) {
    double latency = at - c->sent_at[c->oldest++ % in_flight];
    if (!counting) return;
    replies++;
    uint64_t bucket = latency * 1e6;
    histogram[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
}

/* Replies in one payload: an echo is one; a hub frame may carry several records. */
static int count_replies(struct connection *c, unsigned char *payload, size_t length, double at) {
    if (!hub_mode) {
        if ((int)length != payload_size) die("an echo has another length");
        count_reply(c, at);
        return 1;
    }
    int found = 0;
    unsigned char *end = payload + length;
    while (payload < end) {
        unsigned char *stop = memchr(payload, 0x1e, end - payload);
        if (!stop) die("a hub record has no end");
        if (memmem(payload, stop - payload, "\"invocationId\"", 14)) {
            if (memmem(payload, stop - payload, "\"error\"", 7)) die("the hub answered with an error");
            count_reply(c, at);
            found++;
        } else if (memmem(payload, stop - payload, "\"error\"", 7)) {
            die("the hub closed with an error");
        }
        payload = stop + 1;
    }
    return found;
}

static void readable(struct connection *c) {
    ssize_t got = recv(c->fd, c->buffer + c->have, BUFFER - c->have, 0);
    if (got == 0) die("the server closed a connection");
    if (got < 0) {
        if (errno == EAGAIN) return;
        die("recv failed");
    }
    c->have += got;
    double at = now();
    size_t used = 0, whole, length;
    int opcode, answered = 0;
    unsigned char *payload;
    while ((whole = next_frame(c->buffer + used, c->have - used, &opcode, &payload, &length))) {
        if (opcode == 8) die("the server sent a close frame");
        if (opcode == 1 || opcode == 2) answered += count_replies(c, payload, length, at);
        used += whole;
    }
    if (used) {
        memmove(c->buffer, c->buffer + used, c->have - used);
        c->have -= used;
    }
    if (answered) send_messages(c, answered, at);
}

static void read_blocking(struct connection *c) {
    ssize_t got = recv(c->fd, c->buffer + c->have, BUFFER - c->have, 0);
    if (got <= 0) die("no answer to the handshake");
    c->have += got;
}

static void open_connection(struct connection *c, int port, const char *path) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    char request[1024];
    int one = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address)) die("connect failed");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->buffer = malloc(BUFFER);
    int length = snprintf(request, sizeof request,
                          "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                          "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
                          path, port);
    write_all(c->fd, (unsigned char *)request, length);
    unsigned char *end;
    while (!(end = memmem(c->buffer, c->have, "\r\n\r\n", 4))) read_blocking(c);
    if (c->have < 12 || memcmp(c->buffer + 9, "101", 3)) die("the upgrade was refused");
    c->have -= end + 4 - c->buffer;
    memmove(c->buffer, end + 4, c->have);
    if (hub_mode) {
        unsigned char frame[128];
        unsigned char *payload;
        size_t whole;
        size_t size;
        int opcode;
        write_all(c->fd, frame, make_frame(frame, HANDSHAKE, sizeof HANDSHAKE - 1));
        while (!(whole = next_frame(c->buffer, c->have, &opcode, &payload, &size))) read_blocking(c);
        if (size < 3 || memcmp(payload, "{}\x1e", 3)) die("the hub refused the handshake");
        c->have -= whole;
        memmove(c->buffer, c->buffer + whole, c->have);
    }
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
}

static void make_messages(void) {
    char *text = malloc(payload_size + 256);
    char *filler = malloc(payload_size + 1);
    memset(filler, 'x', payload_size);
    filler[payload_size] = 0;
    for (int i = 0; i < in_flight; i++) {
        int length = payload_size;
        if (hub_mode)
            length = sprintf(text, "{\"arguments\":[\"%s\"],\"invocationId\":\"%d\",\"target\":\"Echo\",\"type\":1}\x1e",
                             filler, i);
        else
            memcpy(text, filler, payload_size);
        messages[i] = malloc(length + 16);
        message_length[i] = make_frame(messages[i], text, length);
    }
    free(text);
    free(filler);
}

static double percentile(double share) {
    uint64_t want = replies * share, seen = 0;
    for (int i = 0; i < BUCKETS; i++) {
        seen += histogram[i];
        if (seen > want) return i;
    }
    return BUCKETS;
}

int main(int count, char **arguments) {
    if (count != 8) {
        fprintf(stderr, "usage: ws_load echo|hub PORT PATH CONNECTIONS IN_FLIGHT SIZE SECONDS\n");
        return 2;
    }
    hub_mode = !strcmp(arguments[1], "hub");
    int port = atoi(arguments[2]), connections = atoi(arguments[4]);
    in_flight = atoi(arguments[5]);
    payload_size = atoi(arguments[6]);
    double seconds = atof(arguments[7]);
    if (in_flight < 1 || in_flight > MAX_IN_FLIGHT || connections < 1 || payload_size < 0) die("bad arguments");
    histogram = calloc(BUCKETS, sizeof *histogram);
    make_messages();

    int epoll = epoll_create1(0);
    struct connection *all = calloc(connections, sizeof *all);
    for (int i = 0; i < connections; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &all[i]};
        open_connection(&all[i], port, arguments[3]);
        epoll_ctl(epoll, EPOLL_CTL_ADD, all[i].fd, &event);
    }
    for (int i = 0; i < connections; i++) send_messages(&all[i], in_flight, now());

    double start = now() + WARM_UP, end = start + seconds;
    struct rusage before, after;
    struct epoll_event events[64];
    for (;;) {
        double at = now();
        if (!counting && at >= start) {
            counting = 1;
            start = at;
            end = at + seconds;
            getrusage(RUSAGE_SELF, &before);
        }
        if (counting && at >= end) {
            end = at;
            break;
        }
        int ready = epoll_wait(epoll, events, 64, 1000);
        for (int i = 0; i < ready; i++) readable(events[i].data.ptr);
        if (ready == 0) die("no reply for a second");
    }
    getrusage(RUSAGE_SELF, &after);
    double busy = after.ru_utime.tv_sec - before.ru_utime.tv_sec + after.ru_stime.tv_sec - before.ru_stime.tv_sec +
                  1e-6 * (after.ru_utime.tv_usec - before.ru_utime.tv_usec + after.ru_stime.tv_usec -
                          before.ru_stime.tv_usec);
    printf("{\"rate\": %.1f, \"p50_us\": %.0f, \"p99_us\": %.0f, \"load_busy\": %.3f}\n", replies / (end - start),
           percentile(0.5), percentile(0.99), busy / (end - start));
    return 0;
}
