/* Breaking the rules of the Runtime API. */
#include "attacker.h"
#include <poll.h>

/* echo TEXT: what a good function does. */
static void echo(char *arguments) { say("%s\n", arguments ? arguments : ""); }

/* oversized MIB: a result of so much. */
static void oversized(char *arguments) {
    size_t bytes = number(&arguments) << 20, ignored;
    /* Never all of it at once: it may be more than the function's memory. */
    static char block[1 << 16], answer[4096];
    memset(block, 'o', sizeof block);
    dprintf(wire, "POST /2018-06-01/runtime%s HTTP/1.1\r\nContent-Length: %zu\r\n\r\n", api_response(), bytes);
    ssize_t put = 1;
    for (size_t at = 0; at < bytes && put > 0; at += put) put = write(wire, block, sizeof block);
    fprintf(stderr, "oversized: %d\n", put > 0 ? api_read(wire, answer, sizeof answer, &ignored) : -1);
    has_answered = true;
}

/* half HOW: a half of the result, then `silence` or the connection's `end`. */
static void half(char *arguments) {
    const char *how = word(&arguments);
    dprintf(wire, "POST /2018-06-01/runtime%s HTTP/1.1\r\nContent-Length: 1000\r\n\r\nhalf", api_response());
    while (!strcmp(how, "silence")) sleep_ms(1000);
    close(wire);
    wire = -1;
    has_answered = true;
}

/* trickle MS: a byte of the result at a time, without end. */
static void trickle(char *arguments) {
    long every = number(&arguments);
    dprintf(wire, "POST /2018-06-01/runtime%s HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n", api_response());
    for (;; sleep_ms(every)) if (send(wire, "t", 1, MSG_NOSIGNAL) != 1) exit(93);
}

/* next: asks for another call without having answered this one. */
static void next(char *arguments) {
    (void)arguments;
    char answer[4096];
    size_t bytes;
    int other = api_connect();
    api_send(other, "GET", "/invocation/next", "", 0);
    fprintf(stderr, "next: %d\n", api_read(other, answer, sizeof answer, &bytes));
    close(other);
    has_answered = true;
}

static void post(int fd, const char *what, const char *path, const char *body) {
    char answer[4096];
    size_t bytes;
    api_send(fd, "POST", path, body, strlen(body));
    say("%s: %d\n", what, api_read(fd, answer, sizeof answer, &bytes));
}

/* others ID: answers a call that is not its own, in several spellings; fails the start when it is over. */
static void others(char *arguments) {
    const char *id = word(&arguments);
    const char *forms[] = {"/invocation/%s/response", "/invocation/%s/error", "/invocation/../invocation/%s/response",
                           "/invocation/%s/response?x", "/invocation/%%2e/%s/response"};
    int fd = api_connect();
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        char path[256];
        snprintf(path, sizeof path, forms[i], id);
        post(fd, "other", path, "stolen");
    }
    post(fd, "init error", "/init/error", "{}");
    close(fd);
}

/* twice: answers, and answers again. */
static void twice(char *arguments) {
    (void)arguments;
    char answer[4096], path[128];
    size_t bytes;
    strcpy(path, api_response());
    api_send(wire, "POST", path, "first", 5);
    int first = api_read(wire, answer, sizeof answer, &bytes);
    api_send(wire, "POST", path, "second", 6);
    fprintf(stderr, "twice: %d %d\n", first, api_read(wire, answer, sizeof answer, &bytes));
    has_answered = true;
}

/* garbage CONNECTIONS: what is no HTTP, on each. */
static void garbage(char *arguments) {
    long count = number(&arguments), answered = 0;
    const char *texts[] = {"\x16\x03\x01\x02\x00\x01\x00\x01", "GET\r\n\r\n", "POST / HTTP/9.9\r\n\r\n", "\r\n\r\n\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                           "GET / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
                           "POST /2018-06-01/runtime/invocation/x/response HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\n",
                           "GET / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n"};
    for (long i = 0; i < count; i++) {
        char noise[4096];
        const char *text = texts[i % 8];
        int fd = api_connect();
        if (fd < 0) continue;
        send(fd, text, strlen(text), MSG_NOSIGNAL);
        for (size_t at = 0; at < sizeof noise; at++) noise[at] = (char)(at * 37 + i);
        send(fd, noise, sizeof noise, MSG_NOSIGNAL);
        struct pollfd event = {fd, POLLIN, 0};
        if (poll(&event, 1, 100) == 1) answered++;
        close(fd);
    }
    say("answered %ld of %ld\n", answered, count);
}

/* unread MIB: so many bytes of requests, and never reads an answer. */
static void unread(char *arguments) {
    long bytes = number(&arguments) << 20, sent = 0;
    const char request[] = "GET /nonexistent HTTP/1.1\r\n\r\n";
    static char many[sizeof request * 1000];
    size_t length = 0;
    for (int i = 0; i < 1000; i++, length += sizeof request - 1) memcpy(many + length, request, sizeof request - 1);
    int fd = api_connect();
    while (sent < bytes) {
        struct pollfd event = {fd, POLLOUT, 0};
        if (poll(&event, 1, 1000) != 1) break;
        ssize_t put = send(fd, many, length, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (put < 0 && errno != EAGAIN) break;
        if (put > 0) sent += put;
    }
    told("unread", sent >= bytes ? 0 : -1);
    close(fd);
}

/* churn COUNT: connects and goes, again and again, over several connections at once. */
static void churn(char *arguments) {
    long count = number(&arguments), made = 0;
    int held[32];
    memset(held, -1, sizeof held);
    for (long i = 0; i < count; i++) {
        int *place = &held[i % 32];
        if (*place >= 0) close(*place);
        *place = api_connect();
        if (*place >= 0) {
            send(*place, "GET /2018", 9, MSG_NOSIGNAL);
            made++;
        }
    }
    for (int i = 0; i < 32; i++) if (held[i] >= 0) close(held[i]);
    say("made %ld\n", made);
}

const struct attack API[] = {{"echo", echo}, {"oversized", oversized}, {"half", half}, {"trickle", trickle}, {"next", next},
                             {"others", others}, {"twice", twice}, {"garbage", garbage}, {"unread", unread}, {"churn", churn},
                             {NULL, NULL}};
