// The handler of SIGBUS that puts zeros where a mapped file was cut.
#include "shared/mapped_file.h"

#include <mutex>

#ifdef __linux__
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#endif

namespace aefast {

// An element of a list that only grows: a signal's handler reads it, whatever the other threads do.
// An element that is no longer in use has no bytes, and serves the next mapping.
struct MappingGuard::Mapping {
    std::atomic<uintptr_t> first{0}, last{0};
    std::atomic<bool> is_taken{false}, is_cut{false};
    Mapping* next = nullptr;
};

namespace {

std::atomic<MappingGuard::Mapping*> mappings{nullptr};

MappingGuard::Mapping* take_mapping() {
    for (auto* mapping = mappings.load(); mapping != nullptr; mapping = mapping->next) {
        bool is_taken = false;
        if (mapping->is_taken.compare_exchange_strong(is_taken, true)) return mapping;
    }
    auto* mapping = new MappingGuard::Mapping;
    mapping->is_taken = true;
    mapping->next = mappings.load();
    while (!mappings.compare_exchange_weak(mapping->next, mapping)) {
    }
    return mapping;
}

#ifdef __linux__

struct sigaction previous;
const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
std::mutex installing;

// A file that was cut has nothing from some page on: zeros take the place of all that follows.
bool put_zeros_from(uintptr_t address) {
    for (auto* mapping = mappings.load(); mapping != nullptr; mapping = mapping->next) {
        const uintptr_t last = mapping->last;
        if (address < mapping->first || address >= last) continue;
        const uintptr_t first = address & ~(page - 1);
        mapping->is_cut = true;
        const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
        return mmap(reinterpret_cast<void*>(first), last - first, PROT_READ | PROT_WRITE, flags, -1,
                    0) != MAP_FAILED;
    }
    return false;
}

// Another's fault is for whoever had the signal before us. It ends the process where there was
// nobody, where they returned and the same instruction faults anew, and where they raise the signal
// themselves: that one waits until we return, and they may have put us back for it (faulthandler).
void hand_on(int number, siginfo_t* information, void* context) {
    static std::atomic<void*> returned_from{nullptr};
    const bool is_fault = information->si_code > 0;
    const bool is_repeated = is_fault && returned_from == information->si_addr;
    if (is_repeated || previous.sa_handler == SIG_DFL || previous.sa_handler == SIG_IGN) {
        if (!is_fault && previous.sa_handler == SIG_IGN) return;
        signal(number, SIG_DFL);
        if (!is_fault) raise(number);
        return;
    }
    if (previous.sa_flags & SA_SIGINFO) {
        previous.sa_sigaction(number, information, context);
    } else {
        previous.sa_handler(number);
    }
    if (is_fault) returned_from = information->si_addr;
    sigset_t waiting;
    sigpending(&waiting);
    if (sigismember(&waiting, number)) signal(number, SIG_DFL);
}

void on_bus_error(int number, siginfo_t* information, void* context) {
    const int error = errno;
    if (information->si_code > 0 &&
        put_zeros_from(reinterpret_cast<uintptr_t>(information->si_addr))) {
        errno = error;
        return;
    }
    hand_on(number, information, context);
}

void install() {
    struct sigaction now;
    sigaction(SIGBUS, nullptr, &now);
    if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == &on_bus_error) return;
    const std::lock_guard<std::mutex> lock(installing);
    struct sigaction ours = {};
    ours.sa_sigaction = &on_bus_error;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&ours.sa_mask);
    struct sigaction replaced;
    sigaction(SIGBUS, &ours, &replaced);
    const bool is_ours = (replaced.sa_flags & SA_SIGINFO) && replaced.sa_sigaction == &on_bus_error;
    if (!is_ours) previous = replaced;
}

#else

void install() {}

#endif

}  // namespace

MappingGuard::MappingGuard(uintptr_t first, uintptr_t bytes) : mapping_(take_mapping()) {
    mapping_->is_cut = false;
    mapping_->first = first;
    mapping_->last = first + bytes;
    install();
}

MappingGuard::~MappingGuard() {
    mapping_->last = 0;
    mapping_->first = 0;
    mapping_->is_taken = false;
}

void MappingGuard::watch() const { install(); }

bool MappingGuard::is_cut() const { return mapping_->is_cut; }

}  // namespace aefast
