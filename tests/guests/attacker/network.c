/* Reaching what should be out of reach. */
#include "attacker.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stddef.h>
#include <sys/un.h>

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

/* ADDRESS PORT as a socket address; its bytes. */
static socklen_t address(char **arguments, union address *to) {
    const char *text = word(arguments);
    int port = number(arguments);
    memset(to, 0, sizeof *to);
    if (inet_pton(AF_INET, text, &to->v4.sin_addr) == 1) {
        to->v4.sin_family = AF_INET;
        to->v4.sin_port = htons(port);
        return sizeof to->v4;
    }
    inet_pton(AF_INET6, text, &to->v6.sin6_addr);
    to->v6.sin6_family = AF_INET6;
    to->v6.sin6_port = htons(port);
    return sizeof to->v6;
}

/* The end of a connection attempt, within a second. */
static long established(int fd, long result) {
    if (result == 0 || errno != EINPROGRESS) return result;
    struct pollfd event = {fd, POLLOUT, 0};
    socklen_t length = sizeof errno;
    if (poll(&event, 1, 1000) == 0) return errno = ETIMEDOUT, -1;
    int error = 0;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
    return error ? (errno = error, -1) : 0;
}

/* tcp ADDRESS PORT ...: connects to each. */
static void tcp(char *arguments) {
    while (arguments && *arguments) {
        union address to;
        socklen_t length = address(&arguments, &to);
        int fd = socket(to.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
        told("tcp", fd < 0 ? -1 : established(fd, connect(fd, &to.any, length)));
        if (fd >= 0) close(fd);
    }
}

/* sneak ADDRESS PORT: the same by the less usual ways. */
static void sneak(char *arguments) {
    union address to;
    socklen_t length = address(&arguments, &to);
    int fd = socket(to.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
    long sent = sendto(fd, "x", 1, MSG_FASTOPEN | MSG_NOSIGNAL, &to.any, length);
    told("fastopen", established(fd, sent == 1 ? 0 : sent));
    int one = 1, late = socket(to.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(late, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &one, sizeof one);
    long begun = connect(late, &to.any, length);
    if (begun == 0) {
        sent = send(late, "x", 1, MSG_NOSIGNAL);
        begun = sent == 1 ? 0 : sent;
    }
    begun = established(late, begun);
    /* With a cookie, connect only pretends; whether there is a peer shows afterwards. */
    struct sockaddr_storage peer;
    socklen_t room = sizeof peer;
    told("fastopen connect", begun ? -1 : getpeername(late, (struct sockaddr *)&peer, &room));
    int multipath = socket(to.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK, 262);
    told("multipath", multipath < 0 ? -1 : established(multipath, connect(multipath, &to.any, length)));
    told("sctp", socket(to.any.sa_family, SOCK_STREAM, 132));
    told("lite", socket(to.any.sa_family, SOCK_DGRAM, 136));
    told("icmp", socket(to.any.sa_family, SOCK_DGRAM, 1));
}

/* udp ADDRESS PORT TEXT ...: sends to each, connected and not; whether it was taken for sending. */
static void udp(char *arguments) {
    while (arguments && *arguments) {
        union address to;
        socklen_t length = address(&arguments, &to);
        const char *text = word(&arguments);
        int fd = socket(to.any.sa_family, SOCK_DGRAM, 0);
        told("udp", sendto(fd, text, strlen(text), 0, &to.any, length));
        close(fd);
        fd = socket(to.any.sa_family, SOCK_DGRAM, 0);
        told("udp connected", connect(fd, &to.any, length) ? -1 : send(fd, text, strlen(text), 0));
        close(fd);
        struct mmsghdr two[2];
        struct iovec part = {(void *)text, strlen(text)};
        fd = socket(to.any.sa_family, SOCK_DGRAM, 0);
        memset(two, 0, sizeof two);
        for (int i = 0; i < 2; i++) two[i].msg_hdr = (struct msghdr){.msg_name = &to, .msg_namelen = length, .msg_iov = &part, .msg_iovlen = 1};
        told("udp many", sendmmsg(fd, two, 2, 0));
        close(fd);
    }
}

/* dns ADDRESS PORT: asks for a name's address. */
static void dns(char *arguments) {
    union address to;
    socklen_t length = address(&arguments, &to);
    const char question[] = "\x12\x34\x01\0\0\1\0\0\0\0\0\0\7example\3com\0\0\1\0\1";
    char heard[512];
    int fd = socket(to.any.sa_family, SOCK_DGRAM, 0);
    struct timeval patience = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    long sent = sendto(fd, question, sizeof question - 1, 0, &to.any, length);
    told("dns", sent < 0 ? -1 : recv(fd, heard, sizeof heard, 0));
}

/* bind ADDRESS PORT ...: each over TCP and UDP. */
static void bind_each(char *arguments) {
    while (arguments && *arguments) {
        union address to;
        socklen_t length = address(&arguments, &to);
        int stream = socket(to.any.sa_family, SOCK_STREAM, 0), datagram = socket(to.any.sa_family, SOCK_DGRAM, 0);
        told("bind tcp", bind(stream, &to.any, length));
        told("bind udp", bind(datagram, &to.any, length));
        close(stream);
        close(datagram);
    }
}

/* listen MS: at a port that the kernel chooses, without having asked for one; whether somebody comes. The port goes to
 * stderr first. */
static void listen_at(char *arguments) {
    long patience = number(&arguments);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    union address own;
    socklen_t length = sizeof own;
    told("listen", listen(fd, 8));
    getsockname(fd, &own.any, &length);
    say("port %d\n", ntohs(own.v4.sin_port));
    fprintf(stderr, "port %d\n", ntohs(own.v4.sin_port));
    struct pollfd event = {fd, POLLIN, 0};
    errno = ETIMEDOUT;
    told("visitor", poll(&event, 1, patience) == 1 ? 0 : -1);
}

/* unix PATH...: connects to each by each type; `@name` is in the abstract namespace. */
static void unix_each(char *arguments) {
    while (arguments && *arguments) {
        const char *path = word(&arguments);
        struct sockaddr_un to = {.sun_family = AF_UNIX};
        socklen_t length = offsetof(struct sockaddr_un, sun_path) + strlen(path);
        strncpy(to.sun_path, path, sizeof to.sun_path - 1);
        if (*path == '@') to.sun_path[0] = 0;
        else length++;
        const int types[] = {SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM};
        long result = -1;
        for (int i = 0; i < 3 && result; i++) {
            int fd = socket(AF_UNIX, types[i], 0), before = errno;
            result = fd < 0 ? -1 : connect(fd, (struct sockaddr *)&to, length);
            /* The first reason is the one that says most. */
            if (result && i > 0 && errno == EPROTOTYPE) errno = before;
            if (fd >= 0 && !result) close(fd);
        }
        told(path, result);
    }
}

const struct attack NETWORK[] = {{"tcp", tcp}, {"sneak", sneak}, {"udp", udp}, {"dns", dns}, {"bind", bind_each},
                                 {"listen", listen_at}, {"unix", unix_each}, {NULL, NULL}};
