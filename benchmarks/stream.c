/* Memory bandwidth as well as we can write it by hand: what the kernels of bytebound.measure are held against.
 *
 *     cc -O3 -fopenmp -shared -fPIC stream.c -o stream.so       (bandwidth.py does this)
 *
 * All kernels have one signature. `base` is a block of memory aligned to 64 bytes; thread t of `threads` works on its
 * own `part` bytes from base + t * part, `passes` times. A part holds one array (read, write), two (copy: from, to) or
 * three (triad: to, from, from) of equal size, a multiple of 1 KiB. What is returned depends on everything read.
 * Bytes are counted as STREAM counts them, so every kernel moves `part` bytes per thread and pass.
 *
 * The file includes itself once per instruction set; which of them the machine can run, level() says.
 */
#ifndef VECTOR

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define FOR_PASSES for (int64_t pass = 0; pass < passes; pass++)
#define END_OF_PASS __asm__ __volatile__("" ::: "memory") /* keeps the compiler from merging passes */

typedef double work_t(char *part_base, size_t part, int64_t passes);

static double in_parallel(work_t *work, char *base, size_t part, int64_t passes, int threads) {
    double total = 0;
#pragma omp parallel for num_threads(threads) schedule(static, 1) reduction(+ : total)
    for (int t = 0; t < threads; t++) total += work(base + t * part, part, passes);
    return total;
}

/* The kernel NAME, of one thread, and its parallel form. */
#define KERNEL(NAME)                                                                                                   \
    static double JOIN(NAME, part)(char *, size_t, int64_t);                                                           \
    double NAME(char *base, size_t part, int64_t passes, int threads) {                                                \
        return in_parallel(JOIN(NAME, part), base, part, passes, threads);                                             \
    }                                                                                                                  \
    TARGET static double JOIN(NAME, part)(char *p, size_t part, int64_t passes)

/* The widest vectors the machine has: 512, 256, or 0 where neither is there. */
int level(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f")) return 512;
    if (__builtin_cpu_supports("avx2")) return 256;
#endif
    return 0;
}

/* Ask for huge pages; 0 when the system took the advice. */
int huge(char *base, size_t bytes) {
#ifdef MADV_HUGEPAGE
    uintptr_t start = ((uintptr_t)base + 4095) & ~(uintptr_t)4095;
    return madvise((void *)start, bytes - (start - (uintptr_t)base), MADV_HUGEPAGE);
#else
    return (void)base, (void)bytes, -1;
#endif
}

#if defined(__x86_64__)
#define VECTOR __m512d
#define WIDTH 64
#define LANES 16 /* accumulators: at least the latency of an addition times how many start per cycle */
#define SUFFIX avx512
#define TARGET __attribute__((target("avx512f")))
#define SPLAT(x) _mm512_set1_pd(x)
#define LOAD(p) _mm512_load_pd((double *)(p))
#define STORE(p, v) _mm512_store_pd((double *)(p), v)
#define STREAM(p, v) _mm512_stream_pd((double *)(p), v)
#define FENCE _mm_sfence()
#include __FILE__

#define VECTOR __m256d
#define WIDTH 32
#define LANES 8
#define SUFFIX avx2
#define TARGET __attribute__((target("avx2,fma")))
#define SPLAT(x) _mm256_set1_pd(x)
#define LOAD(p) _mm256_load_pd((double *)(p))
#define STORE(p, v) _mm256_store_pd((double *)(p), v)
#define STREAM(p, v) _mm256_stream_pd((double *)(p), v)
#define FENCE _mm_sfence()
#include __FILE__
#endif

typedef double pair __attribute__((vector_size(16)));
#define VECTOR pair
#define WIDTH 16
#define LANES 8
#define SUFFIX any
#define TARGET
#define SPLAT(x) ((pair){(x), (x)})
#define LOAD(p) (*(pair *)(p))
#define STORE(p, v) (*(pair *)(p) = (v))
#define STREAM(p, v) STORE(p, v)
#define FENCE
#include __FILE__

/* The C library's own. Nobody here writes zeros: some processors write them faster than anything else. */
#define TARGET
KERNEL(copy_memcpy) {
    FOR_PASSES {
        memcpy(p + part / 2, p, part / 2);
        END_OF_PASS;
    }
    return *(double *)(p + part / 2);
}
KERNEL(write_memset) {
    FOR_PASSES {
        memset(p, (int)(pass & 63) + 1, part);
        END_OF_PASS;
    }
    return *(double *)p;
}

#else /* one instruction set: what follows is compiled for each */

/* STREAMS read in step, part / STREAMS apart; AHEAD bytes are asked for beforehand where it is not 0. */
#define READ(NAME, STREAMS, AHEAD)                                                                                     \
    KERNEL(JOIN(NAME, SUFFIX)) {                                                                                       \
        VECTOR sum[LANES];                                                                                             \
        double lane[WIDTH / 8], total = 0;                                                                             \
        size_t span = part / STREAMS;                                                                                  \
        for (int i = 0; i < LANES; i++) sum[i] = SPLAT(0.0);                                                           \
        FOR_PASSES {                                                                                                   \
            for (size_t o = 0; o < span; o += WIDTH * (LANES / STREAMS)) {                                             \
                _Pragma("GCC unroll 16") for (int i = 0; i < LANES; i++) {                                             \
                    char *at = p + (i % STREAMS) * span + o + (i / STREAMS) * WIDTH;                                   \
                    if (AHEAD && (i / STREAMS) * WIDTH % 64 == 0) __builtin_prefetch(at + AHEAD, 0, 3);                \
                    sum[i] += LOAD(at);                                                                                \
                }                                                                                                      \
            }                                                                                                          \
            END_OF_PASS;                                                                                               \
        }                                                                                                              \
        for (int i = 1; i < LANES; i++) sum[0] += sum[i];                                                              \
        memcpy(lane, &sum[0], WIDTH);                                                                                  \
        for (int i = 0; i < (int)(WIDTH / 8); i++) total += lane[i];                                                   \
        return total;                                                                                                  \
    }
READ(read_1, 1, 0)
READ(read_2, 2, 0)
READ(read_4, 4, 0)
READ(read_8, 8, 0)
READ(read_1_ahead, 1, 2048)
READ(read_4_ahead, 4, 1024)

#define EACH(I) _Pragma("GCC unroll 4") for (size_t I = 0; I < 4 * WIDTH; I += WIDTH)

#define WRITE(NAME, PUT, DONE)                                                                                         \
    KERNEL(JOIN(NAME, SUFFIX)) {                                                                                       \
        FOR_PASSES {                                                                                                   \
            VECTOR value = SPLAT((double)(pass + 1));                                                                  \
            for (size_t o = 0; o < part; o += 4 * WIDTH) EACH(i) PUT(p + o + i, value);                                \
            DONE;                                                                                                      \
            END_OF_PASS;                                                                                               \
        }                                                                                                              \
        return *(double *)p;                                                                                           \
    }
WRITE(write, STORE, )
WRITE(write_stream, STREAM, FENCE)

#define COPY(NAME, PUT, DONE, AHEAD)                                                                                   \
    KERNEL(JOIN(NAME, SUFFIX)) {                                                                                       \
        size_t span = part / 2;                                                                                        \
        char *to = p + span;                                                                                           \
        FOR_PASSES {                                                                                                   \
            for (size_t o = 0; o < span; o += 4 * WIDTH) EACH(i) {                                                     \
                if (AHEAD && i % 64 == 0) __builtin_prefetch(p + o + i + AHEAD, 0, 3);                                 \
                PUT(to + o + i, LOAD(p + o + i));                                                                      \
            }                                                                                                          \
            DONE;                                                                                                      \
            END_OF_PASS;                                                                                               \
        }                                                                                                              \
        return *(double *)to;                                                                                          \
    }
COPY(copy, STORE, , 0)
COPY(copy_ahead, STORE, , 1024)
COPY(copy_stream, STREAM, FENCE, 0)
COPY(copy_stream_ahead, STREAM, FENCE, 1024)

#define TRIAD(NAME, PUT, DONE, AHEAD)                                                                                  \
    KERNEL(JOIN(NAME, SUFFIX)) {                                                                                       \
        size_t span = part / 3;                                                                                        \
        char *b = p + span, *c = p + 2 * span;                                                                         \
        VECTOR three = SPLAT(3.0);                                                                                     \
        FOR_PASSES {                                                                                                   \
            for (size_t o = 0; o < span; o += 4 * WIDTH) EACH(i) {                                                     \
                if (AHEAD && i % 64 == 0) __builtin_prefetch(b + o + i + AHEAD, 0, 3);                                 \
                if (AHEAD && i % 64 == 0) __builtin_prefetch(c + o + i + AHEAD, 0, 3);                                 \
                PUT(p + o + i, LOAD(b + o + i) + three * LOAD(c + o + i));                                             \
            }                                                                                                          \
            DONE;                                                                                                      \
            END_OF_PASS;                                                                                               \
        }                                                                                                              \
        return *(double *)p;                                                                                           \
    }
TRIAD(triad, STORE, , 0)
TRIAD(triad_ahead, STORE, , 1024)
TRIAD(triad_stream, STREAM, FENCE, 0)
TRIAD(triad_stream_ahead, STREAM, FENCE, 1024)

#undef READ
#undef EACH
#undef WRITE
#undef COPY
#undef TRIAD
#undef VECTOR
#undef WIDTH
#undef LANES
#undef SUFFIX
#undef TARGET
#undef SPLAT
#undef LOAD
#undef STORE
#undef STREAM
#undef FENCE
#endif
