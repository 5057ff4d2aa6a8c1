/*
 * What encryption costs: a page through each cipher, in one thread, and `vmsm sim` with and without
 * it.
 *
 *   crypt [ROUNDS]        default 7
 *
 * Whatever is compared takes turns in every round; medians are printed. Times of pages are
 * processor time of the thread, so that other programs on the machine disturb them little.
 * libcrypto is loaded at run time, if it is there: nothing else of vmsm needs it.
 */
#include <dlfcn.h>
#include <sodium.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096u
#define PAGES 1024u /* a round: 4 MiB, more than the second-level cache */
#define ROUNDS_DEFAULT 7
#define ROUNDS_MAX 99
#define SECONDS "4"
#define SIM "sim --quiet --virtual 512M --memory 128M --write 50 --seed 1 --seconds " SECONDS

enum { SODIUM_AES, SODIUM_XCHACHA, CRYPTO_AES, CIPHERS };

static const char *const names[CIPHERS] = {"libsodium AES-256-GCM", "libsodium XChaCha20-Poly1305",
                                           "libcrypto AES-256-GCM"};

static unsigned char plain[PAGES][PAGE], sealed[PAGES][PAGE], tags[PAGES][16];
static unsigned char key[32], nonce[24];
static crypto_aead_aes256gcm_state schedule;

/* ---- libcrypto ---- */

#define GCM_GET_TAG 0x10
#define GCM_SET_TAG 0x11

static struct {
    void *(*new)(void);
    const void *(*cipher)(void);
    int (*init)(void *, const void *, void *, const unsigned char *, const unsigned char *, int);
    int (*update)(void *, unsigned char *, int *, const unsigned char *, int);
    int (*final)(void *, unsigned char *, int *);
    int (*control)(void *, int, int, void *);
    void *seal, *unseal;
} evp;

static void load(void *library, const char *name, void *function)
{
    void *found = dlsym(library, name);

    if (found == NULL) {
        fprintf(stderr, "crypt: libcrypto has no %s\n", name);
        exit(2);
    }
    memcpy(function, &found, sizeof(found));
}

static bool libcrypto_open(void)
{
    void *library = dlopen("libcrypto.so.3", RTLD_NOW);

    if (library == NULL)
        return false;
    load(library, "EVP_CIPHER_CTX_new", &evp.new);
    load(library, "EVP_aes_256_gcm", &evp.cipher);
    load(library, "EVP_CipherInit_ex", &evp.init);
    load(library, "EVP_CipherUpdate", &evp.update);
    load(library, "EVP_CipherFinal_ex", &evp.final);
    load(library, "EVP_CIPHER_CTX_ctrl", &evp.control);
    evp.seal = evp.new();
    evp.unseal = evp.new();
    return evp.init(evp.seal, evp.cipher(), NULL, key, nonce, 1) == 1 &&
           evp.init(evp.unseal, evp.cipher(), NULL, key, nonce, 0) == 1;
}

static void libcrypto_seal(unsigned i)
{
    int length;

    evp.init(evp.seal, NULL, NULL, NULL, nonce, 1);
    evp.update(evp.seal, NULL, &length, (const unsigned char *)&i, sizeof(i));
    evp.update(evp.seal, sealed[i], &length, plain[i], PAGE);
    evp.final(evp.seal, sealed[i], &length);
    evp.control(evp.seal, GCM_GET_TAG, 16, tags[i]);
}

static bool libcrypto_unseal(unsigned i)
{
    int length;

    evp.init(evp.unseal, NULL, NULL, NULL, nonce, 0);
    evp.update(evp.unseal, NULL, &length, (const unsigned char *)&i, sizeof(i));
    evp.update(evp.unseal, sealed[i], &length, sealed[i], PAGE);
    evp.control(evp.unseal, GCM_SET_TAG, 16, tags[i]);
    return evp.final(evp.unseal, sealed[i], &length) == 1;
}

/* ---- a page ---- */

static void seal(int cipher, unsigned i)
{
    const unsigned char *place = (const unsigned char *)&i;

    memcpy(nonce, &i, sizeof(i));
    if (cipher == CRYPTO_AES)
        libcrypto_seal(i);
    else if (cipher == SODIUM_AES)
        crypto_aead_aes256gcm_encrypt_detached_afternm(sealed[i], tags[i], NULL, plain[i], PAGE,
                                                       place, sizeof(i), NULL, nonce, &schedule);
    else
        crypto_aead_xchacha20poly1305_ietf_encrypt_detached(
            sealed[i], tags[i], NULL, plain[i], PAGE, place, sizeof(i), NULL, nonce, key);
}

/* In place, as the store does. */
static bool unseal(int cipher, unsigned i)
{
    const unsigned char *place = (const unsigned char *)&i;

    memcpy(nonce, &i, sizeof(i));
    if (cipher == CRYPTO_AES)
        return libcrypto_unseal(i);
    if (cipher == SODIUM_AES)
        return crypto_aead_aes256gcm_decrypt_detached_afternm(sealed[i], NULL, sealed[i], PAGE,
                                                              tags[i], place, sizeof(i), nonce,
                                                              &schedule) == 0;
    return crypto_aead_xchacha20poly1305_ietf_decrypt_detached(
               sealed[i], NULL, sealed[i], PAGE, tags[i], place, sizeof(i), nonce, key) == 0;
}

/* ---- measuring ---- */

static double thread_us(void)
{
    struct timespec used;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    return (double)used.tv_sec * 1e6 + (double)used.tv_nsec / 1e3;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *values, int count)
{
    qsort(values, (size_t)count, sizeof(*values), compare);
    return (values[(count - 1) / 2] + values[count / 2]) / 2;
}

static bool usable(int cipher)
{
    if (cipher == SODIUM_AES)
        return crypto_aead_aes256gcm_is_available() == 1;
    return cipher != CRYPTO_AES || evp.seal != NULL;
}

static void measure_pages(int rounds)
{
    static double encrypt[CIPHERS][ROUNDS_MAX], decrypt[CIPHERS][ROUNDS_MAX];

    for (int round = -1; round < rounds; round++) { /* the first one does not count */
        for (int c = 0; c < CIPHERS; c++) {
            double begun = thread_us(), between, ended;
            unsigned refused = 0;

            for (unsigned i = 0; i < PAGES && usable(c); i++)
                seal(c, i);
            between = thread_us();
            for (unsigned i = 0; i < PAGES && usable(c); i++)
                refused += !unseal(c, i);
            ended = thread_us();
            if (usable(c) && (refused > 0 || memcmp(sealed, plain, sizeof(plain)) != 0)) {
                fprintf(stderr, "crypt: %s does not give back what it was given\n", names[c]);
                exit(1);
            }
            if (round < 0)
                continue;
            encrypt[c][round] = (between - begun) / PAGES;
            decrypt[c][round] = (ended - between) / PAGES;
        }
    }
    printf("us a page of 4 KiB, one thread, median of %d rounds of %u pages\n%-30s %8s %8s\n",
           rounds, PAGES, "", "encrypt", "decrypt");
    for (int c = 0; c < CIPHERS; c++) {
        if (usable(c))
            printf("%-30s %8.2f %8.2f\n", names[c], median(encrypt[c], rounds),
                   median(decrypt[c], rounds));
        else
            printf("%-30s not available here\n", names[c]);
    }
}

/* Accesses a second of one run of `vmsm sim`. */
static double run_sim(const char *vmsm, bool encrypted)
{
    char command[1024], line[512], digits[64];
    double rate = -1;
    FILE *out;

    snprintf(command, sizeof(command), "%s " SIM " --encrypt %s", vmsm, encrypted ? "on" : "off");
    out = popen(command, "r");
    while (out != NULL && fgets(line, sizeof(line), out) != NULL) {
        char *from = strstr(line, " s: ");
        size_t n = 0;

        if (strncmp(line, "run ", 4) != 0 || from == NULL)
            continue;
        for (from += 4; *from != '\0' && *from != ' ' && n + 1 < sizeof(digits); from++)
            if (*from != ',')
                digits[n++] = *from;
        digits[n] = '\0';
        rate = strtod(digits, NULL);
    }
    if (out == NULL || pclose(out) != 0 || rate <= 0) {
        fprintf(stderr, "crypt: `%s` failed\n", command);
        exit(2);
    }
    return rate;
}

static void measure_sim(const char *self, int rounds)
{
    static double rates[2][ROUNDS_MAX];
    const char *slash = strrchr(self, '/');
    char vmsm[512];
    double off, on;

    snprintf(vmsm, sizeof(vmsm), "%.*s/../vmsm", slash != NULL ? (int)(slash - self) : 1,
             slash != NULL ? self : ".");
    for (int round = 0; round < rounds; round++) {
        for (int turn = 0; turn < 2; turn++) {
            int encrypted = (turn + round) % 2;

            rates[encrypted][round] = run_sim(vmsm, encrypted);
        }
    }
    off = median(rates[0], rounds);
    on = median(rates[1], rounds);
    printf("\nvmsm " SIM "\naccesses a second, median of %d rounds\n", rounds);
    printf("%-14s %8.0f  (%.0f to %.0f)\n", "--encrypt off", off, rates[0][0],
           rates[0][rounds - 1]);
    printf("%-14s %8.0f  (%.0f to %.0f): %+.1f %%\n", "--encrypt on", on, rates[1][0],
           rates[1][rounds - 1], (on / off - 1) * 100);
}

int main(int argc, char **argv)
{
    int rounds = argc > 1 ? atoi(argv[1]) : ROUNDS_DEFAULT;

    if (rounds < 1 || rounds > ROUNDS_MAX || argc > 2) {
        fprintf(stderr, "usage: crypt [ROUNDS], 1 to %d\n", ROUNDS_MAX);
        return 2;
    }
    if (sodium_init() < 0)
        return 2;
    randombytes_buf(key, sizeof(key));
    randombytes_buf(plain, sizeof(plain));
    crypto_aead_aes256gcm_beforenm(&schedule, key);
    if (!libcrypto_open())
        evp.seal = NULL;
    measure_pages(rounds);
    fflush(stdout);
    measure_sim(argv[0], rounds);
    return 0;
}
