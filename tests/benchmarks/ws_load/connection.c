#define _GNU_SOURCE
#include "connection.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

static const unsigned char KEY[4] = {0x37, 0xfa, 0x21, 0x3d}; /* RFC 6455 5.7's example */

void die(const char *why) {
    fprintf(stderr, "ws_load: %s (errno %d: %s)\n", why, errno, strerror(errno));
    exit(1);
}

/* -- bytes ------------------------------------------------------------------ */

static void dial_tcp(struct connection *c, int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int one = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address)) die("connect failed");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static void dial_unix(struct connection *c, const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    c->fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address)) die("connect failed");
}

static void start_tls(struct connection *c) {
    static SSL_CTX *context;
    if (!context) {
        context = SSL_CTX_new(TLS_client_method());
        SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    }
    c->ssl = SSL_new(context);
    SSL_set_fd(c->ssl, c->fd);
    if (SSL_connect(c->ssl) != 1) die("the TLS handshake failed");
}

void dial(struct connection *c, const char *address) {
    memset(c, 0, sizeof *c);
    if (address[0] == '/')
        dial_unix(c, address);
    else if (!strncmp(address, "tls:", 4)) {
        dial_tcp(c, atoi(address + 4));
        start_tls(c);
    } else
        dial_tcp(c, atoi(address));
    c->room = 1024;
    c->buffer = malloc(c->room);
}

void make_nonblocking(struct connection *c) { fcntl(c->fd, F_SETFL, O_NONBLOCK); }

static size_t judge(struct connection *c, ssize_t done, const char *what) {
    if (done > 0) return done;
    if (c->ssl) {
        int error = SSL_get_error(c->ssl, done);
        if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) return 0;
    } else if (done < 0 && errno == EAGAIN) {
        return 0;
    }
    die(what);
    return 0;
}

size_t receive_some(struct connection *c) {
    if (c->have == c->room) c->buffer = realloc(c->buffer, c->room *= 4);
    size_t room = c->room - c->have;
    unsigned char *end = c->buffer + c->have;
    ssize_t got = c->ssl ? SSL_read(c->ssl, end, room) : recv(c->fd, end, room, 0);
    size_t length = judge(c, got, "the server closed a connection");
    c->have += length;
    return length;
}

size_t send_some(struct connection *c, const unsigned char *data, size_t length) {
    ssize_t sent = c->ssl ? SSL_write(c->ssl, data, length) : send(c->fd, data, length, MSG_NOSIGNAL);
    return judge(c, sent, "send failed");
}

void send_blocking(struct connection *c, const unsigned char *data, size_t length) {
    while (length) {
        size_t sent = send_some(c, data, length);
        data += sent;
        length -= sent;
    }
}

void drop_front(struct connection *c, size_t length) {
    if (!length) return;
    memmove(c->buffer, c->buffer + length, c->have - length);
    c->have -= length;
}

/* -- WebSocket -------------------------------------------------------------- */

void upgrade(struct connection *c, const char *path, int offer_deflate) {
    char request[1024];
    int length = snprintf(request, sizeof request,
                          "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                          "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%s\r\n",
                          path, offer_deflate ? "Sec-WebSocket-Extensions: permessage-deflate\r\n" : "");
    send_blocking(c, (unsigned char *)request, length);
    unsigned char *end;
    while (!(end = memmem(c->buffer, c->have, "\r\n\r\n", 4))) receive_some(c);
    if (c->have < 12 || memcmp(c->buffer + 9, "101", 3)) die("the upgrade was refused");
    drop_front(c, end + 4 - c->buffer);
}

size_t make_frame(unsigned char *out, int opcode, const char *payload, size_t length) {
    size_t head = 2;
    out[0] = 0x80 | opcode;
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

int next_frame(struct connection *c, size_t offset, struct frame *found) {
    unsigned char *data = c->buffer + offset;
    size_t have = c->have - offset, head = 2, size;
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
    *found = (struct frame){data[0] & 15, data + head, size, head + size};
    return 1;
}
