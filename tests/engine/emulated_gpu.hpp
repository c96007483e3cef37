// Runs a CUDA kernel on a CPU, block after block: each thread of a block is a fiber, which goes on until it waits for
// others. Knows what kernels.cu uses. To be compiled in front of it.
#include <cmath>
#include <cstring>
#include <functional>
#include <ucontext.h>
#include <vector>

#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(threads)

struct Index {
    unsigned x;
};
static Index blockIdx, threadIdx, blockDim;

static ucontext_t scheduler;
static std::vector<ucontext_t> fibers;
static std::vector<bool> has_ended;
static const std::function<void()> *body;

static void pass_on() {
    unsigned me = threadIdx.x;
    swapcontext(&fibers[me], &scheduler);
}

static void run_fiber() {
    (*body)();
    has_ended[threadIdx.x] = true;
}

struct Barrier {
    unsigned arrived = 0, round = 0;
    void wait(unsigned all) {
        unsigned mine = round;
        if (++arrived == all) {
            arrived = 0;
            round++;
        }
        while (round == mine) pass_on();
    }
};
static Barrier of_block, of_warp[32];

static void __syncthreads() { of_block.wait(blockDim.x); }

static bool __syncthreads_and(bool mine) {
    static bool all;
    if (threadIdx.x == 0) all = true;
    __syncthreads();
    all = all && mine;
    __syncthreads();
    bool found = all;
    __syncthreads();
    return found;
}

template <typename T> T __shfl_down_sync(unsigned, T mine, int step) {
    static T given[1024];
    unsigned me = threadIdx.x, warp = me / 32;
    given[me] = mine;
    of_warp[warp].wait(32);
    T found = me % 32 + step < 32 ? given[me + step] : mine;
    of_warp[warp].wait(32);
    return found;
}

static float __uint_as_float(unsigned bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static unsigned __float_as_uint(float value) {
    unsigned bits;
    memcpy(&bits, &value, 4);
    return bits;
}

static float rsqrtf(float value) { return 1.0f / sqrtf(value); }
#define __expf expf // glibc has one of that name for itself
using std::isfinite;

static void run(int blocks, int threads, const std::function<void()> &kernel) {
    static std::vector<std::vector<char>> stacks(1024, std::vector<char>(1 << 16));
    body = &kernel;
    blockDim.x = threads;
    fibers.resize(threads);
    for (blockIdx.x = 0; blockIdx.x < (unsigned)blocks; blockIdx.x++) {
        has_ended.assign(threads, false);
        for (int thread = 0; thread < threads; thread++) {
            getcontext(&fibers[thread]);
            fibers[thread].uc_stack.ss_sp = stacks[thread].data();
            fibers[thread].uc_stack.ss_size = stacks[thread].size();
            fibers[thread].uc_link = &scheduler;
            makecontext(&fibers[thread], run_fiber, 0);
        }
        for (bool goes_on = true; goes_on;) {
            goes_on = false;
            for (int thread = 0; thread < threads; thread++) {
                if (has_ended[thread]) continue;
                threadIdx.x = thread;
                swapcontext(&scheduler, &fibers[thread]);
                goes_on = true;
            }
        }
    }
}
