#include <torch/torch.h>

#include <curvature/io/idx.hpp>

#include "batches.hpp"
#include "problem.hpp"

namespace curvature::benchmark {
namespace {

namespace nn = torch::nn;

constexpr int64_t kHidden = 512, kClasses = 10;

struct Images {
  at::Tensor inputs;  ///< [N, 784], float32 in [0, 1]
  at::Tensor labels;  ///< [N], int64

  Images(const std::filesystem::path& folder, const std::string& prefix)
      : inputs(read_idx(folder / (prefix + "-images-idx3-ubyte.gz"))
                   .flatten(1)
                   .to(at::kFloat)
                   .div_(255)),
        labels(read_idx(folder / (prefix + "-labels-idx1-ubyte.gz")).to(at::kLong)) {}
};

struct Data {
  Images train, test;

  explicit Data(const std::filesystem::path& folder)
      : train(folder, "train"), test(folder, "t10k") {
    constexpr int64_t kStride = 2;
    test.inputs = test.inputs.slice(0, 0, {}, kStride).contiguous();
    test.labels = test.labels.slice(0, 0, {}, kStride).contiguous();
  }
};

class Perceptron : public Trainee {
 public:
  Perceptron(std::shared_ptr<const Data> data, int64_t batch, uint64_t seed)
      : data_(std::move(data)), batches_(data_->train.labels.size(0), batch, seed) {
    torch::manual_seed(seed);
    net_->push_back("first", nn::Linear(data_->train.inputs.size(1), kHidden));
    net_->push_back("first_relu", nn::ReLU());
    net_->push_back("second", nn::Linear(kHidden, kHidden));
    net_->push_back("second_relu", nn::ReLU());
    net_->push_back("head", nn::Linear(kHidden, kClasses));
  }

  std::vector<NamedTensor> parameters() const override { return named_parameters(*net_); }

  at::Tensor next_loss() override {
    const at::Tensor chosen = batches_.next();
    return at::cross_entropy_loss(net_->forward(data_->train.inputs.index_select(0, chosen)),
                                  data_->train.labels.index_select(0, chosen));
  }

  double held_out_loss() override {
    const at::NoGradGuard no_grad;
    return at::cross_entropy_loss(net_->forward(data_->test.inputs), data_->test.labels)
        .item<double>();
  }

 private:
  std::shared_ptr<const Data> data_;
  ShuffledBatches batches_;
  nn::Sequential net_;
};

}  // namespace

Problem fashion_mlp(const std::filesystem::path& folder, int64_t batch, int64_t num_steps) {
  const auto data = std::make_shared<const Data>(folder);
  return {.name = "fashion-mlp",
          .num_steps = num_steps,
          .sizes = {{"batch", batch}, {"held_out", data->test.labels.size(0)}},
          .start = [=](uint64_t seed) { return std::make_unique<Perceptron>(data, batch, seed); }};
}

}  // namespace curvature::benchmark
