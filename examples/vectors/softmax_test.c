/* Holds a softmax in C against conformance vectors, without Python:

       python -m diffuzz export vectors --target softmax
       cc -O2 softmax_test.c -lm -o softmax_test && ./softmax_test vectors/softmax.safetensors

   The layout of the file is in docs/vectors.md. It expects a little-endian machine. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The function under test: float[b, n] -> float[b, n]. With -DWRONG it forgets to subtract the maximum. */
static void softmax(const float *z, float *y, size_t b, size_t n) {
    for (size_t i = 0; i < b; i++, z += n, y += n) {
        float top = z[0], sum = 0;
        for (size_t j = 1; j < n; j++) top = z[j] > top ? z[j] : top;
#ifdef WRONG
        top = 0;
#endif
        for (size_t j = 0; j < n; j++) sum += y[j] = expf(z[j] - top);
        for (size_t j = 0; j < n; j++) y[j] /= sum;
    }
}

static char *header, *data;

static void fail(const char *what, const char *name) {
    fprintf(stderr, "%s: %s\n", what, name);
    exit(2);
}

static void load(const char *path) {
    FILE *file = fopen(path, "rb");
    uint64_t length;
    if (!file || fread(&length, 8, 1, file) != 1 || length > 1 << 24) fail("no file of vectors", path);
    header = calloc(length + 1, 1);
    data = malloc(1 << 24);
    if (!header || !data || fread(header, 1, length, file) != length) fail("cut short", path);
    if (!strstr(header, "\"format\":\"diffuzz-vectors\",\"version\":\"1\"")) fail("no vectors of version 1", path);
    if (!fread(data, 1, 1 << 24, file)) fail("cut short", path);
    fclose(file);
}

/* The bytes of an array that is stored as it is; NULL if there is none of this name. */
static char *stored(const char *name, size_t *shape, size_t *bytes) {
    char key[128], *entry, *end;
    snprintf(key, sizeof key, "\"%s\":{", name);
    if (!(entry = strstr(header, key))) return NULL;
    end = strstr(entry, "\"shape\":[") + 9;
    for (int axis = 0; axis < 4 && *end != ']'; axis++) {
        shape[axis] = strtoull(end, &end, 10);
        if (*end == ',') end++;
    }
    end = strstr(entry, "\"data_offsets\":[") + 16;
    size_t begin = strtoull(end, &end, 10);
    *bytes = strtoull(end + 1, &end, 10) - begin;
    return data + begin;
}

/* The bytes of an array, and its shape: those of runs are written out. NULL if there is none of this name. */
static char *array(const char *name, size_t *shape) {
    char key[128];
    size_t bytes, values_shape[4] = {0}, other[4];
    char *found = stored(name, shape, &bytes);
    if (found) return found;
    snprintf(key, sizeof key, "%s.values", name);
    char *values = stored(key, values_shape, &bytes);
    if (!values) return NULL;
    size_t runs = values_shape[0], unit = bytes / runs, total = 0, size;
    snprintf(key, sizeof key, "%s.counts", name);
    int64_t *counts = (int64_t *)stored(key, other, &size);
    snprintf(key, sizeof key, "%s.shape", name);
    int64_t *sizes = (int64_t *)stored(key, other, &size);
    for (size_t axis = 0; axis < size / 8; axis++) shape[axis] = (size_t)sizes[axis];
    for (size_t i = 0; i < runs; i++) total += (size_t)counts[i] * unit;
    char *whole = malloc(total), *to = whole;
    for (size_t i = 0; i < runs; i++)
        for (int64_t k = 0; k < counts[i]; k++, to += unit) memcpy(to, values + i * unit, unit);
    return whole;
}

static char *of_case(int number, const char *what, size_t *shape) {
    char name[64];
    snprintf(name, sizeof name, "c%03d/%s", number, what);
    return array(name, shape);
}

int main(int count, char **arguments) {
    if (count != 2) fail("usage", "softmax_test FILE.safetensors");
    load(arguments[1]);
    int cases = 0, wrong = 0;
    size_t shape[4];
    for (const float *z; (z = (float *)of_case(cases, "in/z", shape)); cases++) {
        size_t b = shape[0], n = shape[1], bad = b * n;
        double *exact = (double *)of_case(cases, "exact/0", shape);
        double *allowance = (double *)of_case(cases, "allowance/0", shape);
        float *got = malloc(b * n * sizeof *got);
        if (!exact || !allowance || !got) fail("a damaged case in", arguments[1]);
        softmax(z, got, b, n);
        for (size_t i = 0; i < b * n && bad == b * n; i++)
            if (!(got[i] == exact[i] || isinf(allowance[i]) || fabs(got[i] - exact[i]) <= allowance[i])) bad = i;
        if (bad < b * n) {
            printf("c%03d [%zu, %zu], element [%zu, %zu]: %.9g, where %.17g is right within %.3g\n", cases, b, n,
                   bad / n, bad % n, got[bad], exact[bad], allowance[bad]);
            wrong++;
        }
        free(got);
    }
    printf("%d of %d cases wrong\n", wrong, cases);
    return wrong > 0 || cases == 0;
}
