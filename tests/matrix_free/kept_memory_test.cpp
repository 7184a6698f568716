// What an operator keeps of a batch between products: nothing that grows with the parameters, and
// of the layers only what a backward pass needs. Counted where LibTorch allocates, so that the
// figures are the same everywhere and at any time.
#include <mutex>
#include <unordered_map>

#include <c10/core/CPUAllocator.h>

#include <curvature/matrix_free/ggn.hpp>
#include <curvature/matrix_free/hessian.hpp>
#include <curvature/matrix_free/jacobian.hpp>

#include "support/tensor_close.hpp"

BOOST_AUTO_TEST_SUITE(kept_memory_test)

using namespace curvature;
using namespace curvature::testing;
namespace bdata = boost::unit_test::data;

namespace {

/// While it lives, memory of tensors on the CPU is counted. Works beside the meter that operators
/// use themselves, of which a thread has one.
class LiveMemory {
 public:
  LiveMemory() { c10::SetCPUAllocator(&counting(), kPriority); }
  ~LiveMemory() { c10::SetCPUAllocator(&counting().usual(), kPriority); }
  LiveMemory(const LiveMemory&) = delete;
  LiveMemory& operator=(const LiveMemory&) = delete;

  /// Bytes that are alive of all that was allocated while one of these lived.
  int64_t bytes() const { return counting().bytes(); }

 private:
  static constexpr uint8_t kPriority = 255;

  /// Never destroyed: tensors may outlive everything else.
  class CountingAllocator final : public c10::Allocator {
   public:
    c10::DataPtr allocate(size_t size) override {
      void* data = usual_->raw_allocate(size);
      const std::lock_guard lock(mutex_);
      if (data != nullptr) sizes_[data] = size;
      return {data, data, &release, at::kCPU};
    }
    c10::DeleterFnPtr raw_deleter() const override { return &release; }
    void copy_data(void* to, const void* from, size_t size) const override {
      default_copy_data(to, from, size);
    }
    c10::Allocator& usual() const { return *usual_; }
    int64_t bytes() {
      const std::lock_guard lock(mutex_);
      int64_t sum = 0;
      for (const auto& [data, size] : sizes_) sum += static_cast<int64_t>(size);
      return sum;
    }

   private:
    /// Also of what was allocated before, and so is not in the table.
    static void release(void* data) {
      CountingAllocator& self = counting();
      {
        const std::lock_guard lock(self.mutex_);
        self.sizes_.erase(data);
      }
      self.usual_->raw_deallocate(data);
    }

    c10::Allocator* usual_ = c10::GetCPUAllocator();
    std::mutex mutex_;
    std::unordered_map<void*, size_t> sizes_;
  };

  static CountingAllocator& counting() {
    static auto* allocator = new CountingAllocator;
    return *allocator;
  }
};

constexpr int64_t kWidth = 256, kLayers = 3;
constexpr int64_t kNumber = sizeof(double);

EmpiricalRisk risk_of(torch::nn::Sequential net, int64_t num_examples, const Shape& example) {
  net->to(at::kDouble);
  const int64_t size = c10::multiply_integers(example);
  Shape shape = example;
  shape.insert(shape.begin(), num_examples);
  const at::Tensor inputs = RandomSource(9).normal(0, num_examples, size).view(shape);
  return EmpiricalRisk(
      Model::from_module(net), mean_squared_error(),
      tensor_dataset({inputs}, at::zeros_like(net->forward(inputs).detach()), num_examples));
}

/// Square layers, each with tanh: 65 792 parameters a layer, and 256 numbers an example.
EmpiricalRisk linear_layers(int64_t num_examples) {
  torch::nn::Sequential net;
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    net->push_back(torch::nn::Linear(kWidth, kWidth));
    net->push_back(torch::nn::Tanh());
  }
  return risk_of(net, num_examples, {kWidth});
}

/// The same with 36 928 parameters a layer, and 256 numbers an example.
EmpiricalRisk convolutions(int64_t num_examples) {
  torch::nn::Sequential net;
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    net->push_back(torch::nn::Conv2d(torch::nn::Conv2dOptions(64, 64, 3).padding(1)));
    net->push_back(torch::nn::Tanh());
  }
  return risk_of(net, num_examples, {64, 2, 2});
}

struct Kind {
  const char* name;
  OperatorPtr (*build)(const EmpiricalRisk&, const MatrixFreeOptions&);
  int64_t of_the_loss;  ///< tensors as large as the output that it keeps for the loss
};

const Kind kKinds[] = {
    {"hessian", hessian, 1},  // differences to targets
    {"ggn", ggn, 2},          // gradient and Hessian of the terms
    {"ggn_mc",
     [](const EmpiricalRisk& risk, const MatrixFreeOptions& options) {
       return ggn_mc(risk, {.random = RandomSource(3)}, options);
     },
     2},                                        // a sample, and with its weight
    {"empirical_fisher", empirical_fisher, 2},  // the gradient, and with its weight
    {"jacobian", jacobian, 0},
};

std::ostream& operator<<(std::ostream& out, const Kind& kind) { return out << kind.name; }

/// Bytes that an operator holds after a product whose result is gone.
int64_t kept_bytes(const Kind& kind, const EmpiricalRisk& risk,
                   const MatrixFreeOptions& options = {}) {
  const at::Tensor v = at::ones({risk.space().size(), 2}, at::kDouble);
  kind.build(risk, options)->apply(v);  // what the risk itself keeps is there already
  const LiveMemory memory;
  const int64_t before = memory.bytes();
  const OperatorPtr a = kind.build(risk, options);
  a->apply(v);
  return memory.bytes() - before;
}

}  // namespace

BOOST_DATA_TEST_CASE(nothing_grows_with_the_parameters, bdata::make(kKinds), kind) {
  for (const auto make_risk : {linear_layers, convolutions}) {
    const int64_t few = kept_bytes(kind, make_risk(2)), many = kept_bytes(kind, make_risk(8));
    const int64_t parameters = make_risk(2).space().size() * kNumber;
    BOOST_TEST(few > 0);
    // One number for each parameter would be at least twenty times as much as all that is kept,
    BOOST_TEST(few < parameters / 16);
    // and anything that is not an example's, however small, would be in both.
    BOOST_TEST(std::abs(many - 4 * few) < 16 * kNumber);
  }
}

BOOST_DATA_TEST_CASE(of_a_layer_three_tensors_are_kept, bdata::make(kKinds), kind) {
  // Differentiating twice takes the output of each layer, the gradients before and after each tanh
  // but those before the first, which nothing asks for, and what the loss adds.
  const int64_t num_examples = 16, tensors = 3 * kLayers - 1 + kind.of_the_loss;
  const int64_t tensor = num_examples * kWidth * kNumber;
  BOOST_TEST(kept_bytes(kind, linear_layers(num_examples)) < tensors * tensor + 16 * kNumber);
}

BOOST_DATA_TEST_CASE(the_budget_counts_what_is_kept, bdata::make(kKinds), kind) {
  for (const auto make_risk : {linear_layers, convolutions}) {
    const EmpiricalRisk risk = make_risk(2);
    const int64_t kept = kept_bytes(kind, risk);
    BOOST_TEST(kept_bytes(kind, risk, {.memory_budget = kept}) == kept);
    BOOST_TEST(kept_bytes(kind, risk, {.memory_budget = kept - 1}) == 0);
    BOOST_TEST(kept_bytes(kind, risk, {.memory_budget = 0}) == 0);
  }
}

BOOST_AUTO_TEST_SUITE_END()
