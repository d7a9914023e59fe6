/* A WebSocket load generator that is not the bottleneck: one thread, epoll, frames made once.
 *
 * Usage: ws_load MODE ADDRESS PATH CONNECTIONS IN_FLIGHT SIZE SECONDS WAIT
 *   MODE      text       text frames of SIZE bytes; each must come back with the same length
 *             binary     the same with binary frames
 *             tcp        the same bytes without a WebSocket; as many must come back
 *             broadcast  one connection sends, all must get it; then the next. IN_FLIGHT must be 1
 *             deflate    the same, where all offer permessage-deflate, as browsers do; what comes is not inflated
 *             flood      the first connection sends without end; only the others are measured
 *             idle       an echo each, then nothing: prints "ready", and ends at the end of its input
 *   ADDRESS   a port on 127.0.0.1, tls:PORT, or the path of a Unix socket
 *   WAIT      spin   poll without sleeping, so that no server has to wake this process: that costs a
 *                    server as much as all the rest of a message, and a client elsewhere costs it nothing
 *             sleep  sleep until there is something to read, as a client does
 *             a number: µs between two messages of a connection, instead of one after each answer
 * Prints one JSON object. The first second is warm-up and is not counted. `load_busy` is the share of
 * time that was not spent waiting or polling in vain.
 *
 * Every connection keeps IN_FLIGHT messages on the way: each reply is answered by the next message,
 * and all messages that one read allows leave in one write. Latency is from a message's write to
 * its reply, in order. `messages` are all that were answered, with those of the warm-up.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "connection.h"

#define WARM_UP 1.0
#define BATCH (16 << 10)
#define BUCKETS 1000000 /* one a microsecond */

static enum { TEXT, BINARY, TCP, BROADCAST, DEFLATE, FLOOD, IDLE } mode;
static const char *MODES[] = {"text", "binary", "tcp", "broadcast", "deflate", "flood", "idle"};

static int connections, in_flight, counting, epoll;
static size_t payload_size;
static int spins;
static double pace; /* seconds */
static struct connection *all;
static unsigned char *messages[MAX_IN_FLIGHT]; /* masked frames */
static size_t message_length[MAX_IN_FLIGHT];
static uint64_t replies, all_replies, flooded, missing;
static uint32_t *histogram;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static int floods(struct connection *c) { return mode == FLOOD && c == all; }
static int broadcasts(void) { return mode == BROADCAST || mode == DEFLATE; }

/* -- sending ---------------------------------------------------------------- */

static void wait_to_write(struct connection *c, int wait) {
    if (c->waits_to_write == wait) return;
    struct epoll_event event = {.events = wait ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.ptr = c};
    c->waits_to_write = wait;
    epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &event);
}

/* Write what is owed, small messages many at a time, until the socket is full. */
static void write_owed(struct connection *c) {
    static unsigned char batch[BATCH];
    if (floods(c)) c->owed = BATCH; /* more than fit in */
    while (c->owed) {
        unsigned first = (c->next_message - c->owed) % in_flight;
        const unsigned char *data = messages[first] + c->written;
        size_t length = message_length[first] - c->written;
        if (c->owed > 1 && length < BATCH) {
            size_t filled = length;
            memcpy(batch, data, length);
            for (unsigned i = 1; i < c->owed && filled + message_length[(first + i) % in_flight] <= BATCH; i++) {
                memcpy(batch + filled, messages[(first + i) % in_flight], message_length[(first + i) % in_flight]);
                filled += message_length[(first + i) % in_flight];
            }
            data = batch;
            length = filled;
        }
        size_t sent = send_some(c, data, length);
        if (!sent) break;
        for (sent += c->written; c->owed && sent >= message_length[(c->next_message - c->owed) % in_flight];)
            sent -= message_length[(c->next_message - c->owed--) % in_flight];
        c->written = sent;
        if (floods(c)) break; /* the others get their turn */
    }
    wait_to_write(c, c->owed > 0);
}

static void send_messages(struct connection *c, int count, double at) {
    for (int i = 0; i < count; i++) c->sent_at[c->next_message++ % in_flight] = at;
    c->owed += count;
    write_owed(c);
}

/* -- receiving -------------------------------------------------------------- */

static void count_reply(double latency) {
    all_replies++;
    if (!counting) return;
    replies++;
    uint64_t bucket = latency * 1e6;
    histogram[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
}

/* Replies in what was received. */
static int count_replies(struct connection *c, double at) {
    int found = 0;
    size_t used = 0;
    struct frame frame;
    if (mode == TCP) {
        for (; c->have - used >= message_length[0]; used += message_length[0], found++)
            count_reply(at - c->sent_at[c->oldest++ % in_flight]);
        drop_front(c, used);
        return found;
    }
    while (next_frame(c, used, &frame)) {
        used += frame.whole;
        if (frame.opcode == 8) die("the server sent a close frame");
        if (frame.opcode > 2) continue;
        if (mode != DEFLATE && frame.length != payload_size) die("an echo has another length");
        if (floods(c)) {
            flooded += counting;
            all_replies++;
            continue;
        }
        found++;
        if (broadcasts())
            count_reply(at - all->sent_at[0]);
        else
            count_reply(at - c->sent_at[c->oldest++ % in_flight]);
    }
    drop_front(c, used);
    return found;
}

static void readable(struct connection *c) {
    if (!receive_some(c)) return;
    double at = now();
    int answered = count_replies(c, at);
    while (c->ssl && receive_some(c)) answered += count_replies(c, at); /* epoll cannot see what OpenSSL holds */
    if (!answered) return;
    if (broadcasts()) {
        missing -= answered;
        if (missing == 0) {
            missing = connections;
            send_messages(all, 1, at);
        }
    } else if (pace == 0) {
        send_messages(c, answered, at);
    }
}

/* -- the run ---------------------------------------------------------------- */

static void open_connection(struct connection *c, const char *address, const char *path) {
    struct frame frame;
    dial(c, address);
    if (mode != TCP) upgrade(c, path, mode == DEFLATE);
    if (mode == IDLE) {
        send_blocking(c, messages[0], message_length[0]);
        while (!next_frame(c, 0, &frame)) receive_some(c);
        drop_front(c, frame.whole);
    }
    make_nonblocking(c);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event);
}

static void make_messages(void) {
    char *filler = malloc(payload_size);
    memset(filler, 'x', payload_size);
    for (int i = 0; i < in_flight; i++) {
        messages[i] = malloc(payload_size + 16);
        message_length[i] = make_frame(messages[i], mode == BINARY ? 2 : 1, filler, payload_size);
    }
    free(filler);
}

static void begin(double at) {
    missing = connections;
    for (int i = 0; i < connections; i++) {
        if (broadcasts() && i) break;
        all[i].next_at = at + pace * i / connections;
        if (pace == 0 || floods(&all[i])) send_messages(&all[i], in_flight, at);
    }
}

/* Send what is due; the loop spins for it, since epoll's own timer is too coarse. */
static void send_due(double at) {
    for (int i = 0; i < connections; i++) {
        struct connection *c = &all[i];
        if (floods(c) || at < c->next_at) continue;
        c->next_at += pace;
        if (c->next_message - c->oldest < (unsigned)in_flight) send_messages(c, 1, at);
    }
}

static double percentile(double share) {
    uint64_t want = replies * share, seen = 0;
    for (int i = 0; i < BUCKETS; i++) {
        seen += histogram[i];
        if (seen > want) return i;
    }
    return BUCKETS;
}

static void run(double seconds) {
    double start = now() + WARM_UP, end = start + seconds, idle = 0, last = now();
    struct epoll_event events[64];
    begin(now());
    for (;;) {
        double at = now();
        if (!counting && at >= start) {
            counting = 1;
            start = at;
            end = at + seconds;
            idle = 0;
        }
        if (counting && at >= end) {
            end = at;
            break;
        }
        if (pace > 0) send_due(at);
        double began = now();
        int ready = epoll_wait(epoll, events, 64, spins ? 0 : 1000);
        if (!spins || !ready) idle += now() - began;
        for (int pass = 0; pass < 2; pass++) /* the flood comes last */
            for (int i = 0; i < ready; i++) {
                struct connection *c = events[i].data.ptr;
                if (floods(c) != pass) continue;
                if (events[i].events & EPOLLOUT) write_owed(c);
                if (events[i].events & ~EPOLLOUT) readable(c);
            }
        if (ready) last = at;
        if (at - last > 2) die("no reply for two seconds");
    }
    printf("{\"rate\": %.1f, \"p50_us\": %.0f, \"p99_us\": %.0f, \"load_busy\": %.3f, \"messages\": %lu", replies / (end - start),
           percentile(0.5), percentile(0.99), 1 - idle / (end - start), all_replies);
    if (mode == FLOOD) printf(", \"flood_rate\": %.1f", flooded / (end - start));
    printf("}\n");
}

int main(int count, char **arguments) {
    if (count != 9) die("usage: ws_load MODE ADDRESS PATH CONNECTIONS IN_FLIGHT SIZE SECONDS WAIT");
    while (mode <= IDLE && strcmp(arguments[1], MODES[mode])) mode++;
    if (mode > IDLE) die("no such mode");
    connections = atoi(arguments[4]);
    in_flight = atoi(arguments[5]);
    payload_size = atol(arguments[6]);
    pace = atof(arguments[8]) * 1e-6; /* 0 for a word */
    spins = strcmp(arguments[8], "sleep") != 0;
    if (in_flight < 1 || in_flight > MAX_IN_FLIGHT || connections < 1) die("bad arguments");
    histogram = calloc(BUCKETS, sizeof *histogram);
    make_messages();
    epoll = epoll_create1(0);
    all = calloc(connections, sizeof *all);
    for (int i = 0; i < connections; i++) open_connection(&all[i], arguments[2], arguments[3]);
    if (mode == IDLE) {
        puts("ready");
        fflush(stdout);
        while (getchar() != EOF) {
        }
        return 0;
    }
    run(atof(arguments[7]));
    return 0;
}
