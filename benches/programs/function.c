/* A function for the benches, built with `cc -O2 -static`: as little of its own as a function can have.
 *
 *   function serve [MS]  Lambda's Runtime API, one call after the other; the answer is the payload, after so long
 *   function sleep       waits for a signal
 *   function HOG [N]     cpu, memory, fork or network: takes all it can get until it is killed, in N processes. Under
 *                      the platform it asks for a call first and never answers; as a plain process it begins at once.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <netinet/tcp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <signal.h>

enum { ROOM = 1 << 20, HOARD = 1 << 30, FORKED_MAX = 2000 };

static char in[ROOM], out[ROOM];

static void die(const char *what) { perror(what); exit(1); }

static int dial(void) {
    char host[64];
    const char *api = getenv("AWS_LAMBDA_RUNTIME_API");
    if (!api || strlen(api) >= sizeof host) { fprintf(stderr, "AWS_LAMBDA_RUNTIME_API is not set\n"); exit(1); }
    strcpy(host, api);
    char *port = strchr(host, ':');
    if (!port) exit(1);
    *port++ = 0;
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(port)) };
    inet_pton(AF_INET, host, &to.sin_addr);
    int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    if (s < 0 || connect(s, (struct sockaddr *)&to, sizeof to)) die("connect");
    setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return s;
}

static void put(int s, const char *bytes, size_t left) {
    while (left > 0) {
        ssize_t n = write(s, bytes, left);
        if (n <= 0) exit(0);
        bytes += n;
        left -= (size_t)n;
    }
}

/* Reads one answer; where its body is, and how long. */
static char *answer(int s, size_t *length) {
    size_t have = 0, whole = 0;
    char *body = 0;
    while (!body || have < whole) {
        ssize_t n = read(s, in + have, ROOM - 1 - have);
        if (n <= 0) exit(0); /* the sandbox is being ended */
        have += (size_t)n;
        in[have] = 0;
        if (!body && (body = strstr(in, "\r\n\r\n"))) {
            char *said = strcasestr(in, "\ncontent-length:");
            body += 4;
            *length = said && said < body ? strtoul(said + 16, 0, 10) : 0;
            whole = (size_t)(body - in) + *length;
        }
    }
    return body;
}

static const char NEXT[] = "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: api\r\n\r\n";

static void serve(int s, unsigned pause_ms) {
    for (;;) {
        size_t length;
        put(s, NEXT, sizeof NEXT - 1);
        char *body = answer(s, &length);
        char *id = strcasestr(in, "lambda-runtime-aws-request-id:");
        if (!id || id > body) exit(1);
        id += 30;
        while (*id == ' ') id++;
        int head = snprintf(out, 512, "POST /2018-06-01/runtime/invocation/%.*s/response HTTP/1.1\r\nHost: api\r\n"
                            "Content-Length: %zu\r\n\r\n", (int)strcspn(id, "\r"), id, length);
        memcpy(out + head, body, length);
        if (pause_ms) usleep(pause_ms * 1000);
        put(s, out, (size_t)head + length);
        answer(s, &length);
    }
}

static void take_cpu(void) {
    for (volatile unsigned long n = 0;; n++) {}
}

/* Touches more and more, again and again. Beyond the limit this process is ended, and the next one begins anew. */
static void take_memory(void) {
    char *hoard = mmap(0, HOARD, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (hoard == MAP_FAILED) die("mmap");
    for (;;) {
        for (size_t at = 0; at < HOARD; at += 4096) hoard[at]++;
        madvise(hoard, HOARD, MADV_DONTNEED);
    }
}

static void take_processes(void) {
    for (;;) {
        int children = 0;
        while (children < FORKED_MAX) {
            pid_t child = fork();
            if (child < 0) break;
            if (child == 0) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                usleep(20000);
                _exit(0);
            }
            children++;
        }
        while (children-- > 0) wait(0);
    }
}

static void take_network(void) {
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(9) };
    inet_pton(AF_INET, "127.0.0.1", &to.sin_addr);
    int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    for (;;) sendto(s, out, 1400, 0, (struct sockaddr *)&to, sizeof to);
}

int main(int count, char **words) {
    const char *what = count > 1 ? words[1] : "serve";
    if (!strcmp(what, "sleep")) for (;;) pause();
    if (!strcmp(what, "serve")) serve(dial(), count > 2 ? (unsigned)atoi(words[2]) : 0);
    void (*take)(void) = !strcmp(what, "cpu") ? take_cpu : !strcmp(what, "memory") ? take_memory
        : !strcmp(what, "fork") ? take_processes : !strcmp(what, "network") ? take_network : 0;
    if (!take) { fprintf(stderr, "what is `%s`?\n", what); return 2; }
    if (getenv("AWS_LAMBDA_RUNTIME_API")) {
        int s = dial();
        size_t length;
        put(s, NEXT, sizeof NEXT - 1);
        answer(s, &length);
    }
    for (int left = count > 2 ? atoi(words[2]) : 1;; left--) {
        /* One that was ended for its memory is replaced. */
        if (left <= 0 && wait(0) < 0) return 1;
        pid_t child = fork();
        if (child == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            take();
        }
    }
}
