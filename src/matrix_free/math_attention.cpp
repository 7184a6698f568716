#include "matrix_free/math_attention.hpp"

#include <mutex>

#include <ATen/Context.h>

namespace curvature::detail {
namespace {

struct Switches {
  bool flash, memory_efficient, cudnn, overrideable, math;

  static Switches read() {
    const at::Context& context = at::globalContext();
    return {context.userEnabledFlashSDP(), context.userEnabledMemEfficientSDP(),
            context.userEnabledCuDNNSDP(), context.userEnabledOverrideableSDP(),
            context.userEnabledMathSDP()};
  }
  void write() const {
    at::Context& context = at::globalContext();
    context.setSDPUseFlash(flash);
    context.setSDPUseMemEfficient(memory_efficient);
    context.setSDPUseCuDNN(cudnn);
    context.setSDPUseOverrideable(overrideable);
    context.setSDPUseMath(math);
  }
};

std::mutex mutex;
int holders = 0;
Switches before{};

}  // namespace

MathAttentionGuard::MathAttentionGuard() {
  const std::lock_guard lock(mutex);
  if (holders++ > 0) return;
  before = Switches::read();
  Switches{false, false, false, false, true}.write();
}

MathAttentionGuard::~MathAttentionGuard() {
  const std::lock_guard lock(mutex);
  if (--holders == 0) before.write();
}

}  // namespace curvature::detail
