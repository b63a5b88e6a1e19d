/* The attacker: a function that does what its arguments say, and answers with a line for each thing it tried:
 * "what: ok" if that succeeded, "what: EPERM" and the like if it was refused. Nothing here does lasting harm when it
 * succeeds: the tests run it outside of sandboxes, too, to show that it would. */
#ifndef ATTACKER_H
#define ATTACKER_H
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

/* An attack by its name. `arguments` are the words behind it; it may take them apart. */
struct attack {
    const char *name;
    void (*run)(char *arguments);
};

extern const struct attack KERNEL[], FILES[], PROCESSES[], RESOURCES[], NETWORK[], API[];

/* Adds to the answer. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Adds "what: ok" if the result is none of -1, else the name of errno. */
void told(const char *what, long result);
/* The next word of `arguments`; ends the program if there is none. */
char *word(char **arguments);
/* The next word as a number. */
long number(char **arguments);
void sleep_ms(long ms);
long now_ms(void);

/* The Runtime API. */
extern char call_id[64];   /* the call that is being answered */
extern bool has_answered;  /* the attack has answered it itself */
extern int wire;           /* the connection on which it was asked for */
int api_connect(void);
/* Writes a request; false if the connection broke. */
bool api_send(int socket, const char *method, const char *path, const char *body, size_t bytes);
/* Reads an answer: its status, its body into `body`, and the call's id if there is one. -1 if the connection broke. */
int api_read(int socket, char *body, size_t room, size_t *bytes);
/* Path of the current call's result. */
const char *api_response(void);
/* Asks for the next call and does what it says, for good. */
void serve(void);
/* Finds the attack and runs it. */
void run(char *payload);

#endif
