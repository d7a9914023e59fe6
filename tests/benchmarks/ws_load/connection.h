/* A WebSocket connection of the load generator: TCP, Unix socket or TLS, and frames made once. */
#ifndef CONNECTION_H
#define CONNECTION_H
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define MAX_IN_FLIGHT 256

struct ssl_st;

struct connection {
    int fd;
    struct ssl_st *ssl; /* NULL: not encrypted */
    unsigned char *buffer;
    size_t have, room;
    double sent_at[MAX_IN_FLIGHT]; /* ring, oldest at `oldest` */
    unsigned oldest, next_message;
    unsigned owed;      /* messages that are to be written */
    size_t written;     /* bytes of the first of them */
    int waits_to_write; /* the socket was full */
    double next_at;     /* when the next message is due, where messages are paced */
};

struct frame {
    int opcode;
    unsigned char *payload;
    size_t length, whole; /* whole: with its header */
};

void die(const char *why);

/* ADDRESS is a port on 127.0.0.1, tls:PORT, or the path of a Unix socket. */
void dial(struct connection *c, const char *address);
void upgrade(struct connection *c, const char *path, int offer_deflate);
void make_nonblocking(struct connection *c);

/* What the socket has or takes now; 0 where that is nothing. Dies where the connection ended. */
size_t receive_some(struct connection *c);
size_t send_some(struct connection *c, const unsigned char *data, size_t length);
void send_blocking(struct connection *c, const unsigned char *data, size_t length);

/* A masked, final frame; its length. `out` has room for 14 bytes more than the payload. */
size_t make_frame(unsigned char *out, int opcode, const char *payload, size_t length);
/* The first complete frame behind `offset`; 0 where more bytes are needed. */
int next_frame(struct connection *c, size_t offset, struct frame *found);
void drop_front(struct connection *c, size_t length);
#endif
