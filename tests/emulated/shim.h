// CUDA C++ on the CPU, for tests: what the kernels of backends/kernels use of CUDA, and no more.
//
// The blocks of a grid run one after the other, in an order that the seed gives.  A thread of a block
// is a fiber, which runs until it waits for others: at a barrier of the block, or at an exchange of a
// warp.  The seed gives the order of the fibers, too, so that a missing barrier shows as a result that
// depends on it.  Shared memory is NaN before each block.  Where no fiber can go on, that is reported.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
// Of a block, whose fibers run while no other block does; in a section of its own, to be poisoned.
#define __shared__ static __attribute__((section("shared_memory")))

extern "C" char __start_shared_memory[] __attribute__((weak, visibility("hidden")));
extern "C" char __stop_shared_memory[] __attribute__((weak, visibility("hidden")));

struct dim3 { unsigned x, y, z; };

namespace shim {

constexpr size_t STACK = 256 * 1024;
constexpr unsigned WARP = 32;

struct Meeting {  // of the threads in a mask, again and again
    unsigned arrived = 0;
    unsigned long long round = 0;
    unsigned char left[2][WARP][8];  // what each lane brought, in rounds by turns
};

struct Warp { std::vector<std::pair<unsigned, Meeting>> meetings; };

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack = std::make_unique<char[]>(STACK);
    dim3 thread;
    unsigned number;
    bool done;
    const unsigned long long* round;  // what it waits for to change, or null
    unsigned long long old;
    const char* where;
};

inline dim3 grid, block, block_index;
inline std::vector<std::unique_ptr<Fiber>> fibers;
inline std::vector<Warp> warps;
inline unsigned live, arrived;  // threads of the block that have not ended; those at its barrier
inline unsigned long long barrier;
inline Fiber* current;
inline ucontext_t scheduler;
inline const std::function<void()>* body;
inline std::string error;

inline void wait(const unsigned long long* round, const char* where)
{
    current->round = round;
    current->old = *round;
    current->where = where;
    swapcontext(&current->context, &scheduler);
    current->round = nullptr;
}

inline void open_barrier_if_all_are_there()
{
    if (live && arrived == live) {
        arrived = 0;
        ++barrier;
    }
}

inline void run_fiber()
{
    (*body)();
    current->done = true;
    --live;
    open_barrier_if_all_are_there();  // threads that have ended are not waited for
}

inline void fail(const std::string& text)
{
    if (error.empty()) error = text;
}

inline std::string name_of(const Fiber& fiber)
{
    return "block (" + std::to_string(block_index.x) + ", " + std::to_string(block_index.y) + ", "
        + std::to_string(block_index.z) + ") thread " + std::to_string(fiber.number);
}

inline void run_block(std::mt19937& random)
{
    if (__start_shared_memory)
        std::memset(__start_shared_memory, 0xff, __stop_shared_memory - __start_shared_memory);
    unsigned count = block.x * block.y * block.z;
    while (fibers.size() < count) fibers.push_back(std::make_unique<Fiber>());
    warps.assign((count + WARP - 1) / WARP, Warp{});
    live = count;
    arrived = 0;
    std::vector<Fiber*> active;
    for (unsigned i = 0; i < count; ++i) {
        Fiber& fiber = *fibers[i];
        fiber.thread = {i % block.x, i / block.x % block.y, i / block.x / block.y};
        fiber.number = i;
        fiber.done = false;
        fiber.round = nullptr;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = &scheduler;
        makecontext(&fiber.context, run_fiber, 0);
        active.push_back(&fiber);
    }
    while (!active.empty() && error.empty()) {
        std::shuffle(active.begin(), active.end(), random);
        bool moved = false;
        for (Fiber* fiber : active)
            if (!fiber->round || *fiber->round != fiber->old) {
                moved = true;
                current = fiber;
                swapcontext(&scheduler, &fiber->context);
            }
        std::erase_if(active, [](Fiber* fiber) { return fiber->done; });
        if (!moved)
            fail("deadlock: " + std::to_string(active.size()) + " threads wait, "
                + name_of(*active[0]) + " at " + active[0]->where);
    }
}

inline const char* launch(dim3 g, dim3 b, unsigned seed, const std::function<void()>& kernel)
{
    grid = g;
    block = b;
    body = &kernel;
    error.clear();
    std::mt19937 random(seed);
    std::vector<dim3> order;
    for (unsigned z = 0; z < g.z; ++z)
        for (unsigned y = 0; y < g.y; ++y)
            for (unsigned x = 0; x < g.x; ++x) order.push_back({x, y, z});
    std::shuffle(order.begin(), order.end(), random);
    for (dim3 index : order) {
        block_index = index;
        if (error.empty()) run_block(random);
    }
    return error.c_str();
}

// Call a kernel with arguments given by their addresses, as the driver does.
template <class... Parameters>
const char* launch(
    void (*kernel)(Parameters...), dim3 g, dim3 b, unsigned seed, unsigned count,
    void* const* arguments, const unsigned* sizes)
{
    constexpr unsigned expected[] = {sizeof(Parameters)...};
    if (count != sizeof...(Parameters) || !std::equal(sizes, sizes + count, expected)) {
        error = "arguments of other sizes than the kernel's parameters:";
        for (unsigned i = 0; i < count; ++i) error += " " + std::to_string(sizes[i]);
        return error.c_str();
    }
    return [&]<size_t... i>(std::index_sequence<i...>) {
        return launch(g, b, seed, [&] { kernel(*static_cast<Parameters*>(arguments[i])...); });
    }(std::index_sequence_for<Parameters...>{});
}

// What each lane of the mask brings, for all of them.
template <class T>
void exchange(unsigned mask, const T& mine, T* all, const char* where)
{
    static_assert(sizeof(T) <= 8);
    unsigned lane = current->number % WARP;
    if (!(mask >> lane & 1)) fail(name_of(*current) + " is not in the mask of its " + where);
    auto& meetings = warps[current->number / WARP].meetings;
    auto found = std::find_if(
        meetings.begin(), meetings.end(), [&](auto& pair) { return pair.first == mask; });
    if (found == meetings.end()) {
        meetings.reserve(8);  // references stay
        found = meetings.insert(meetings.end(), {mask, Meeting{}});
    }
    Meeting& meeting = found->second;
    auto& left = meeting.left[meeting.round % 2];
    std::memcpy(left[lane], &mine, sizeof(T));
    if (++meeting.arrived == unsigned(std::popcount(mask))) {
        meeting.arrived = 0;
        ++meeting.round;
    } else {
        wait(&meeting.round, where);
    }
    for (unsigned other = 0; other < WARP; ++other)
        if (mask >> other & 1) std::memcpy(&all[other], left[other], sizeof(T));
}

}  // namespace shim

#define threadIdx (shim::current->thread)
#define blockIdx (shim::block_index)
#define blockDim (shim::block)
#define gridDim (shim::grid)

inline void __syncthreads()
{
    const auto* round = &shim::barrier;
    ++shim::arrived;
    if (shim::arrived == shim::live) shim::open_barrier_if_all_are_there();
    else shim::wait(round, "__syncthreads");
}

template <class T>
T __shfl_xor_sync(unsigned mask, T mine, int lanes)
{
    T all[shim::WARP];
    shim::exchange(mask, mine, all, "__shfl_xor_sync");
    return all[(shim::current->number % shim::WARP) ^ lanes];
}

using std::exp;
using std::log;
using std::pow;
using std::sqrt;
