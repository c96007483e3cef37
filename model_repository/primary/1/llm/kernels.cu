// The small operations of a pass on a GPU, one launch each. Compiled when a model is loaded: see llm/cuda_kernels.py,
// which also gives the constants in capitals that are not defined here. Includes nothing, so that no CUDA toolkit has
// to be installed.

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

struct alignas(16) Eight {
    u16 of[8];
};

#if IS_BFLOAT16
__device__ float number(u16 bits) { return __uint_as_float((u32)bits << 16); }

__device__ u16 rounded(float value) {
    u32 bits = __float_as_uint(value);
    if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff; // NaN
    return (u16)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
#else // float16
__device__ float number(u16 bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

__device__ u16 rounded(float value) {
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#endif

// --- reductions over a block, whose result every thread gets -------------------------------------------------------

template <typename T, typename Join>
__device__ T joined(T mine, Join join) {
    __shared__ T warps[32], result;
    for (int step = 16; step; step /= 2) mine = join(mine, mine.from(step));
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = mine;
    __syncthreads();
    if (threadIdx.x == 0) {
        T all = warps[0];
        for (int warp = 1; warp < blockDim.x / 32; warp++) all = join(all, warps[warp]);
        result = all;
    }
    __syncthreads();
    T found = result;
    __syncthreads(); // before the next one writes
    return found;
}

template <typename T>
struct Best { // the largest value, and the lowest place that has it
    T value;
    int place;
    __device__ Best from(int step) const {
        Best other;
        other.value = __shfl_down_sync(0xffffffff, value, step);
        other.place = __shfl_down_sync(0xffffffff, place, step);
        return other;
    }
    __device__ static Best of(Best one, Best other) {
        bool first = one.value > other.value || (one.value == other.value && one.place < other.place);
        return first ? one : other;
    }
};

struct Sums {
    float mass;
    int count;
    __device__ Sums from(int step) const {
        Sums other;
        other.mass = __shfl_down_sync(0xffffffff, mass, step);
        other.count = __shfl_down_sync(0xffffffff, count, step);
        return other;
    }
    __device__ static Sums of(Sums one, Sums other) {
        Sums sum;
        sum.mass = one.mass + other.mass;
        sum.count = one.count + other.count;
        return sum;
    }
};

// --- layers --------------------------------------------------------------------------------------------------------

// RMSNorm of a row per block; `width` is a multiple of 8.
extern "C" __global__ void normalise(u16 *out, const u16 *rows, const u16 *weight, int width, float eps) {
    const Eight *row = (const Eight *)(rows + (u64)blockIdx.x * width), *factors = (const Eight *)weight;
    Eight *to = (Eight *)(out + (u64)blockIdx.x * width);
    Sums squares = {0.0f, 0};
    for (int at = threadIdx.x; at < width / 8; at += blockDim.x) {
        Eight eight = row[at];
        for (int i = 0; i < 8; i++) squares.mass += number(eight.of[i]) * number(eight.of[i]);
    }
    float scale = rsqrtf(joined(squares, Sums::of).mass / width + eps);
    for (int at = threadIdx.x; at < width / 8; at += blockDim.x) {
        Eight eight = row[at], factor = factors[at];
        for (int i = 0; i < 8; i++) eight.of[i] = rounded(number(eight.of[i]) * scale * number(factor.of[i]));
        to[at] = eight;
    }
}

// silu(left) * right of rows that hold both side by side; a thread per eight results, of which a row has `width` / 8.
extern "C" __global__ void gate_silu(u16 *out, const u16 *both, int num_rows, int width) {
    u32 at = blockIdx.x * blockDim.x + threadIdx.x, eights = width / 8, row = at / eights;
    if (row >= num_rows) return;
    const Eight *left = (const Eight *)both + row * (u64)eights + at;
    Eight value = left[0], factor = left[eights];
    for (int i = 0; i < 8; i++) {
        float x = number(value.of[i]);
        value.of[i] = rounded(x / (1.0f + __expf(-x)) * number(factor.of[i]));
    }
    ((Eight *)out)[at] = value;
}

// Rotary position embedding of the first heads of each row, in place; a thread per pair.
extern "C" __global__ void rotate(u16 *rows, const u16 *cos, const u16 *sin, int num_rows, int width, int heads, int dim) {
    u32 half = dim / 2, pairs = heads * half, at = blockIdx.x * blockDim.x + threadIdx.x;
    u32 row = at / pairs, pair = at % pairs, place = pair % half;
    if (row >= num_rows) return;
    u16 *first = rows + (u64)row * width + pair / half * dim + place, *second = first + half;
    const u16 *c = cos + (u64)row * dim + place, *s = sin + (u64)row * dim + place;
    float x = number(*first), y = number(*second);
    *first = rounded(x * number(c[0]) + y * number(s[0]));
    *second = rounded(y * number(c[half]) + x * number(s[half]));
}

// --- draws ---------------------------------------------------------------------------------------------------------

struct Row { // see llm/cuda_drawing.py
    long long key;
    float temperature, top_p, min_p;
    int top_k, row, unused;
};

// As llm.noise.gumbel.
__device__ double gumbel(u64 key, long long counter) {
    u64 bits = key + (u64)counter * STEP;
    bits = (bits ^ (bits >> 30)) * MULTIPLIER_1;
    bits = (bits ^ (bits >> 27)) * MULTIPLIER_2;
    bits ^= bits >> 31;
    return -log(-log(((double)(bits >> 12) + 0.5) / NUM_UNIFORM));
}

// One token per block, as llm.drawing._draw_from_all; 32 warps. `is_even`: the vocabulary is a multiple of 8.
extern "C" __global__ void __launch_bounds__(1024)
draw(int *tokens, const u16 *logits, const Row *rows, int vocabulary, int is_even) {
    __shared__ float masses[MAX_SEGMENTS];
    const float nothing = __uint_as_float(0xff800000); // minus infinity
    Row row = rows[blockIdx.x];
    const u16 *mine = logits + (u64)row.row * vocabulary;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, num_segments = vocabulary / SEGMENT + 1;

    // A warp has a segment, a lane eight tokens of it.
    auto eight_of = [&](int segment, float *found) {
        int from = segment * SEGMENT + lane * 8;
        if (is_even && from < vocabulary) {
            Eight eight = *(const Eight *)(mine + from);
            for (int i = 0; i < 8; i++) found[i] = number(eight.of[i]);
        } else {
            for (int i = 0; i < 8; i++) found[i] = from + i < vocabulary ? number(mine[from + i]) : nothing;
        }
    };

    Best<float> best = {nothing, vocabulary};
    bool is_usable = true;
    for (int segment = warp; segment < num_segments; segment += 32) {
        float eight[8];
        eight_of(segment, eight);
        for (int i = 0; i < 8; i++) {
            int token = segment * SEGMENT + lane * 8 + i;
            if (token < vocabulary) {
                is_usable &= isfinite(eight[i]);
                best = Best<float>::of(best, Best<float>{eight[i], token});
            }
        }
    }
    if (!__syncthreads_and(is_usable)) {
        if (threadIdx.x == 0) tokens[blockIdx.x] = UNUSABLE;
        return;
    }
    best = joined(best, Best<float>::of);
    if (row.temperature == 0.0f) {
        if (threadIdx.x == 0) tokens[blockIdx.x] = best.place;
        return;
    }

    const float temperature = fmaxf(row.temperature, MIN_TEMPERATURE);
    auto weight_of = [&](float logit) { return expf((logit - best.value) / temperature); };
    Sums total = {0.0f, 0};
    for (int segment = warp; segment < num_segments; segment += 32) {
        float eight[8], mass = 0.0f;
        eight_of(segment, eight);
        for (int i = 0; i < 8; i++) mass += weight_of(eight[i]);
        for (int step = 16; step; step /= 2) mass += __shfl_down_sync(0xffffffff, mass, step);
        if (lane == 0) masses[segment] = mass, total.mass += mass;
    }
    __syncthreads();
    const bool is_filtered = row.top_k < vocabulary || row.top_p < 1.0f || row.min_p > 0.0f;
    if (is_filtered) total = joined(total, Sums::of);

    for (int attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
        long long shift = attempt * (long long)ATTEMPT;
        Best<double> chosen = {nothing, num_segments};
        for (int segment = threadIdx.x; segment < num_segments; segment += blockDim.x) {
            double score = log((double)masses[segment]) + gumbel(row.key, segment - num_segments - shift);
            chosen = Best<double>::of(chosen, Best<double>{score, segment});
        }
        int segment = joined(chosen, Best<double>::of).place;

        chosen = Best<double>{nothing, vocabulary};
        int token = segment * SEGMENT + threadIdx.x;
        if (threadIdx.x < SEGMENT && token < vocabulary) {
            chosen.value = log((double)weight_of(number(mine[token]))) + gumbel(row.key, token + shift);
            chosen.place = token;
        }
        token = joined(chosen, Best<double>::of).place;

        bool is_kept = !is_filtered;
        if (is_filtered) {
            float logit = number(mine[token]);
            Sums above = {0.0f, 0};
            for (int other = warp; other < num_segments; other += 32) {
                float eight[8];
                eight_of(other, eight);
                for (int i = 0; i < 8; i++)
                    if (eight[i] > logit) above.mass += weight_of(eight[i]), above.count++;
            }
            above = joined(above, Sums::of);
            bool is_in_nucleus = row.top_p >= 1.0f || above.mass < row.top_p * total.mass;
            is_kept = (above.count < row.top_k && is_in_nucleus && weight_of(logit) >= row.min_p) || above.count == 0;
        }
        if (is_kept) {
            if (threadIdx.x == 0) tokens[blockIdx.x] = token;
            return;
        }
    }
    if (threadIdx.x == 0) tokens[blockIdx.x] = MISSED;
}
