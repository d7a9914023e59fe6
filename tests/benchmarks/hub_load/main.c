/* A SignalR load generator that is not the bottleneck: one thread, epoll, messages made once.
 *
 * Usage: hub_load MODE ADDRESS PATH CONNECTIONS IN_FLIGHT SIZE SECONDS WAIT
 *   MODE      json       invocations of Echo with a string of SIZE characters, over WebSockets
 *             msgpack    the same in MessagePack
 *             sse        the same in JSON over Server-Sent Events and POSTs
 *             broadcast  one connection calls Broadcast, all must get Message; then the next. IN_FLIGHT must be 1
 *             stalled    the same, beside a connection that reads nothing and is not waited for
 *             stream     each connection reads streams of SIZE items, Count(SIZE), one after the other
 *             idle       an Echo each, then nothing: prints "ready", and ends at the end of its input
 *   ADDRESS   a port on 127.0.0.1
 *   WAIT      sleep until there is something to read, or spin: as in ws_load
 * Prints one JSON object. The first second is warm-up and is not counted. `load_busy` is the share of
 * time that was not spent waiting. `messages` are all that came, with those of the warm-up.
 *
 * Every connection keeps IN_FLIGHT invocations on the way: each answer makes room for the next, and all
 * that one read allows leave in one write. Latency is from an invocation's write to its answer, in order.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "../ws_load/connection.h"

#define WARM_UP 1.0
#define BUCKETS 1000000 /* one a microsecond */
#define BATCH (256 << 10)

static enum { JSON, MSGPACK, SSE, BROADCAST, STALLED, STREAM, IDLE } mode;
static const char *MODES[] = {"json", "msgpack", "sse", "broadcast", "stalled", "stream", "idle"};

struct client {
    struct connection in;   /* answers come here */
    struct connection post; /* SSE: requests leave here */
    char token[128];
    int awaited;      /* SSE: responses to POSTs and events that are to come */
};

static int connections, in_flight, counting, epoll, missing;
static size_t payload_size;
static int spins;
static struct client *all;
static const char *path;
static unsigned char *messages[MAX_IN_FLIGHT];
static size_t message_length[MAX_IN_FLIGHT];
static uint64_t replies, all_replies;
static uint32_t *histogram;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static int broadcasts(void) { return mode == BROADCAST || mode == STALLED; }

/* -- messages --------------------------------------------------------------- */

static size_t json_message(char *out, const char *filler, int id) {
    if (broadcasts()) return sprintf(out, "{\"arguments\":[\"%s\"],\"target\":\"Broadcast\",\"type\":1}\x1e", filler);
    if (mode == STREAM)
        return sprintf(out, "{\"arguments\":[%zu],\"invocationId\":\"%d\",\"target\":\"Count\",\"type\":4}\x1e",
                       payload_size, id);
    return sprintf(out, "{\"arguments\":[\"%s\"],\"invocationId\":\"%d\",\"target\":\"Echo\",\"type\":1}\x1e", filler,
                   id);
}

/* [1, {}, "id", "Echo", ["…"], []] behind its length */
static size_t msgpack_message(char *out, const char *filler, int id) {
    char body[70000], text[8];
    size_t size = strlen(filler), at = 0;
    int digits = sprintf(text, "%d", id);
    at += sprintf(body, "\x96\x01\x80%c%s\xa4%s\x91", 0xa0 | digits, text, "Echo");
    body[at++] = (char)0xda; /* str 16 */
    body[at++] = size >> 8;
    body[at++] = size & 255;
    memcpy(body + at, filler, size);
    at += size;
    body[at++] = (char)0x90;
    size_t head = 0;
    for (size_t left = at; left || !head; left >>= 7) out[head++] = (left & 127) | (left > 127 ? 128 : 0);
    memcpy(out + head, body, at);
    return head + at;
}

static size_t post_message(char *out, const char *token, const char *message, size_t length) {
    size_t head = sprintf(out,
                          "POST %s?id=%s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/plain;charset=UTF-8\r\n"
                          "Content-Length: %zu\r\n\r\n",
                          path, token, length);
    memcpy(out + head, message, length);
    return head + length;
}

static void make_messages(void) {
    size_t length = mode == STREAM ? 0 : payload_size;
    char *text = malloc(length + 256), *filler = malloc(length + 1);
    memset(filler, 'x', length);
    filler[length] = 0;
    if (mode == MSGPACK && length > 60000) die("MessagePack arguments have at most 60,000 bytes here");
    for (int i = 0; i < in_flight; i++) {
        size_t size = mode == MSGPACK ? msgpack_message(text, filler, i) : json_message(text, filler, i);
        messages[i] = malloc(size + 16);
        if (mode == SSE) {
            memcpy(messages[i], text, size);
            message_length[i] = size;
        } else {
            message_length[i] = make_frame(messages[i], mode == MSGPACK ? 2 : 1, text, size);
        }
    }
    free(text);
    free(filler);
}

/* -- sending ---------------------------------------------------------------- */

static void send_messages(struct client *client, int count, double at) {
    static unsigned char batch[BATCH];
    static char request[BATCH];
    struct connection *c = &client->in;
    size_t filled = 0;
    for (int i = 0; i < count; i++) {
        unsigned which = c->next_message++ % in_flight;
        c->sent_at[which] = at;
        if (mode == SSE) {
            size_t length = post_message(request, client->token, (char *)messages[which], message_length[which]);
            send_blocking(&client->post, (unsigned char *)request, length);
            client->awaited = 2;
            continue;
        }
        if (filled + message_length[which] > BATCH) {
            send_blocking(c, batch, filled);
            filled = 0;
        }
        memcpy(batch + filled, messages[which], message_length[which]);
        filled += message_length[which];
    }
    if (filled) send_blocking(c, batch, filled);
}

/* -- receiving -------------------------------------------------------------- */

static void count_reply(double latency) {
    all_replies++;
    if (!counting) return;
    replies++;
    uint64_t bucket = latency * 1e6;
    histogram[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
}

static int has(unsigned char *record, unsigned char *stop, const char *text) {
    return memmem(record, stop - record, text, strlen(text)) != NULL;
}

/* One JSON record; 1 where an invocation was answered, or a broadcast came. */
static int take_record(struct connection *c, unsigned char *record, unsigned char *stop, double at) {
    if (has(record, stop, "\"error\"")) die("the hub answered with an error");
    if (broadcasts()) {
        if (!has(record, stop, "\"Message\"")) return 0;
        count_reply(at - all->in.sent_at[0]);
        return 1;
    }
    if (mode == STREAM && has(record, stop, "\"item\"")) {
        count_reply(0);
        return 0;
    }
    if (!has(record, stop, "\"invocationId\"")) return 0; /* a ping */
    if (mode != STREAM) count_reply(at - c->sent_at[c->oldest % in_flight]);
    c->oldest++;
    return 1;
}

static int take_json(struct connection *c, unsigned char *next, unsigned char *end, double at) {
    int found = 0;
    while (next < end) {
        unsigned char *stop = memchr(next, 0x1e, end - next);
        if (!stop) die("a hub record has no end");
        found += take_record(c, next, stop, at);
        next = stop + 1;
    }
    return found;
}

static int take_msgpack(struct connection *c, unsigned char *next, unsigned char *end, double at) {
    int found = 0;
    while (next < end) {
        size_t length = 0;
        for (int shift = 0;; shift += 7) {
            length |= (size_t)(*next & 127) << shift;
            if (!(*next++ & 128)) break;
        }
        if (length >= 2 && next[1] == 3) {
            count_reply(at - c->sent_at[c->oldest++ % in_flight]);
            found++;
        }
        next += length;
    }
    return found;
}

static int take_frames(struct connection *c, double at) {
    int found = 0;
    size_t used = 0;
    struct frame frame;
    while (next_frame(c, used, &frame)) {
        used += frame.whole;
        if (frame.opcode == 8) die("the server sent a close frame");
        if (frame.opcode > 2) continue;
        unsigned char *end = frame.payload + frame.length;
        found += mode == MSGPACK ? take_msgpack(c, frame.payload, end, at) : take_json(c, frame.payload, end, at);
    }
    drop_front(c, used);
    return found;
}

/* Events in a chunked body: it is enough to see where records end. */
static void take_events(struct client *client, double at) {
    struct connection *c = &client->in;
    unsigned char *end = c->buffer + c->have, *stop = memrchr(c->buffer, 0x1e, c->have);
    if (!stop) return;
    for (unsigned char *next = c->buffer; next <= stop;) {
        unsigned char *record = memchr(next, 0x1e, end - next);
        if (take_record(c, next, record, at)) client->awaited--;
        next = record + 1;
    }
    drop_front(c, stop + 1 - c->buffer);
}

static void take_response(struct client *client) {
    struct connection *c = &client->post;
    unsigned char *end = memmem(c->buffer, c->have, "\r\n\r\n", 4);
    if (!end) return;
    if (c->buffer[9] != '2') die("a POST was refused");
    drop_front(c, end + 4 - c->buffer);
    client->awaited--;
}

static void readable(struct client *client, int posted, double at) {
    if (mode == SSE) {
        if (!receive_some(posted ? &client->post : &client->in)) return;
        if (posted)
            take_response(client);
        else
            take_events(client, at);
        if (client->awaited == 0) send_messages(client, 1, at);
        return;
    }
    if (!receive_some(&client->in)) return;
    int answered = take_frames(&client->in, at);
    if (!broadcasts()) {
        if (answered) send_messages(client, answered, at);
        return;
    }
    missing -= answered;
    if (missing == 0) {
        missing = connections;
        send_messages(all, 1, at);
    }
}

/* -- the run ---------------------------------------------------------------- */

static void watch(struct connection *c, void *data) {
    make_nonblocking(c);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = data};
    epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event);
}

/* On a connection of its own, so that nobody has to know where its answer ends. */
static void negotiate(struct client *client, const char *address) {
    struct connection once;
    char request[1024], *found, *end = NULL;
    dial(&once, address);
    int length = sprintf(request, "POST %s/negotiate?negotiateVersion=1 HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                                  "Content-Length: 0\r\n\r\n", path);
    send_blocking(&once, (unsigned char *)request, length);
    while (!end) {
        receive_some(&once);
        once.buffer[once.have < once.room ? once.have : once.room - 1] = 0;
        found = strstr((char *)once.buffer, "\"connectionToken\"");
        if (!found || !(found = strchr(found, ':')) || !(found = strchr(found, '"'))) continue;
        end = strchr(++found, '"');
    }
    memcpy(client->token, found, end - found);
    close(once.fd);
    free(once.buffer);
}

static void open_events(struct client *client, const char *address) {
    struct connection *c = &client->post;
    char request[1024];
    unsigned char *end;
    negotiate(client, address);
    dial(c, address);
    dial(&client->in, address);
    send_blocking(&client->in, (unsigned char *)request,
                  sprintf(request, "GET %s?id=%s HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n",
                          path, client->token));
    while (!memmem(client->in.buffer, client->in.have, "\r\n\r\n", 4)) receive_some(&client->in);
    send_blocking(c, (unsigned char *)request, post_message(request, client->token,
                  "{\"protocol\":\"json\",\"version\":1}\x1e", 32));
    while (!(end = memchr(client->in.buffer, 0x1e, client->in.have))) receive_some(&client->in);
    drop_front(&client->in, end + 1 - client->in.buffer);
    while (!(end = memmem(c->buffer, c->have, "\r\n\r\n", 4))) receive_some(c);
    drop_front(c, end + 4 - c->buffer);
}

static void open_socket(struct connection *c, const char *address) {
    unsigned char frame[128];
    struct frame answer;
    char handshake[64];
    dial(c, address);
    upgrade(c, path, 0);
    int length = sprintf(handshake, "{\"protocol\":\"%s\",\"version\":1}\x1e", mode == MSGPACK ? "messagepack" : "json");
    send_blocking(c, frame, make_frame(frame, 1, handshake, length));
    while (!next_frame(c, 0, &answer)) receive_some(c);
    if (answer.length < 3 || memcmp(answer.payload, "{}\x1e", 3)) die("the hub refused the handshake");
    drop_front(c, answer.whole);
    if (mode != IDLE) return;
    send_blocking(c, messages[0], message_length[0]);
    while (!next_frame(c, 0, &answer)) receive_some(c);
    drop_front(c, answer.whole);
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
    double start = now() + WARM_UP, end = start + seconds, idle = 0;
    struct epoll_event events[64];
    missing = connections;
    for (int i = 0; i < connections && !(broadcasts() && i); i++) send_messages(&all[i], in_flight, now());
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
        int ready = epoll_wait(epoll, events, 64, spins ? 0 : 10000);
        double woken = now();
        if (!spins || !ready) idle += woken - at;
        if (!ready && !spins) die("nothing came for ten seconds");
        for (int i = 0; i < ready; i++) { /* the lowest bit of a pointer tells a client's two connections apart */
            uintptr_t data = (uintptr_t)events[i].data.ptr;
            readable((struct client *)(data & ~(uintptr_t)1), data & 1, woken);
        }
    }
    printf("{\"rate\": %.1f, \"p50_us\": %.0f, \"p99_us\": %.0f, \"load_busy\": %.3f, \"messages\": %lu}\n",
           replies / (end - start), percentile(0.5), percentile(0.99), 1 - idle / (end - start), all_replies);
}

int main(int count, char **arguments) {
    if (count != 9) die("usage: hub_load MODE ADDRESS PATH CONNECTIONS IN_FLIGHT SIZE SECONDS WAIT");
    while (mode <= IDLE && strcmp(arguments[1], MODES[mode])) mode++;
    if (mode > IDLE) die("no such mode");
    path = arguments[3];
    connections = atoi(arguments[4]);
    in_flight = atoi(arguments[5]);
    payload_size = atol(arguments[6]);
    spins = !strcmp(arguments[8], "spin");
    if (in_flight < 1 || in_flight > MAX_IN_FLIGHT || connections < 1) die("bad arguments");
    if (in_flight > 1 && (broadcasts() || mode == SSE || mode == STREAM)) die("IN_FLIGHT must be 1");
    histogram = calloc(BUCKETS, sizeof *histogram);
    make_messages();
    epoll = epoll_create1(0);
    all = calloc(connections + 1, sizeof *all);
    for (int i = 0; i < connections; i++) {
        struct client *client = &all[i];
        if (mode == SSE) {
            open_events(client, arguments[2]);
            watch(&client->post, (char *)client + 1);
        } else {
            open_socket(&client->in, arguments[2]);
        }
        watch(&client->in, client);
    }
    if (mode == STALLED) open_socket(&all[connections].in, arguments[2]); /* and never read again */
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
