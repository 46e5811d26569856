#include "parallel.h"

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace aefast {
namespace {

bool forked = false;

[[maybe_unused]] const int registered = [] {
#if defined(__unix__) || defined(__APPLE__)
    return pthread_atfork(nullptr, nullptr, [] { forked = true; });
#else
    return 0;
#endif
}();

}  // namespace

bool in_forked_child() { return forked; }

}  // namespace aefast
