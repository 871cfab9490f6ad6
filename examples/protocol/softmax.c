/* softmax as a program, in C without a library for JSON (docs/protocol.md).
 *
 *   cc -O2 softmax.c -o softmax -lm
 *   python -m diffuzz search --target softmax --candidate 'run: ./softmax'
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void write_frame(const char *header, const void *body, uint64_t size) {
    uint32_t length = (uint32_t)strlen(header);
    fwrite("DFZ1", 1, 4, stdout);
    fwrite(&length, 4, 1, stdout); /* on a little-endian machine */
    fwrite(&size, 8, 1, stdout);
    fwrite(header, 1, length, stdout);
    fwrite(body, 1, size, stdout);
    fflush(stdout);
}

static void soft_max(const float *z, float *p, int64_t rows, int64_t n) {
    for (; rows-- > 0; z += n, p += n) {
        float largest = z[0];
        double sum = 0;
        for (int64_t i = 1; i < n; i++) largest = fmaxf(largest, z[i]);
        for (int64_t i = 0; i < n; i++) sum += p[i] = expf(z[i] - largest);
        for (int64_t i = 0; i < n; i++) p[i] = (float)(p[i] / sum);
    }
}

static void run(const char *header, const char *body) {
    /* Headers have no spaces, and their keys a fixed order, so this finds the first input. */
    long long rows, n;
    const char *input = strstr(header, "{\"name\":\"z\",\"dtype\":\"float32\",\"shape\":[");
    if (!input || sscanf(strstr(input, "\"shape\":["), "\"shape\":[%lld,%lld]", &rows, &n) != 2) {
        write_frame("{\"message\":\"skip\",\"text\":\"float32 only\"}", "", 0);
        return;
    }
    float *p = malloc((size_t)(rows * n) * sizeof *p);
    soft_max((const float *)body, p, rows, n); /* the first input is at offset 0 */
    write_frame("{\"message\":\"result\"}", p, (uint64_t)(rows * n) * sizeof *p);
    free(p);
}

int main(void) {
    char prefix[16];
    while (fread(prefix, 1, 16, stdin) == 16) {
        uint32_t length;
        uint64_t size;
        memcpy(&length, prefix + 4, 4);
        memcpy(&size, prefix + 8, 8);
        char *header = calloc(length + 1, 1), *body = malloc(size + 1);
        if (fread(header, 1, length, stdin) != length || fread(body, 1, size, stdin) != size) return 1;
        if (strstr(header, "\"message\":\"describe\""))
            write_frame("{\"message\":\"describe\",\"protocol\":1,\"operations\":[\"softmax\"]}", "", 0);
        else
            run(header, body);
        free(header);
        free(body);
    }
    return 0;
}
