#include <algorithm>
#include <array>
#include <fstream>
#include <iterator>

#include <torch/torch.h>

#include <fmt/core.h>

#include <curvature/core/error.hpp>

#include "batches.hpp"
#include "problem.hpp"

namespace curvature::benchmark {
namespace {

namespace nn = torch::nn;

constexpr int64_t kContext = 64, kWidth = 128, kHeads = 4, kLayers = 4, kHeldOutWindows = 128;

/// A text as numbers of the different bytes that are in it.
struct Text {
  at::Tensor train, held_out;  ///< [length], int64
  int64_t vocabulary = 0;

  explicit Text(const std::filesystem::path& file) {
    std::ifstream stream(file, std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(stream), {}};
    const auto length = static_cast<int64_t>(bytes.size());
    if (length / 10 <= kContext) {
      throw DataError(
          fmt::format("character-gpt: '{}' is missing or short; expected more than {} "
                      "bytes, got {}",
                      file.string(), 10 * kContext, length));
    }
    std::array<int64_t, 256> number;
    number.fill(-1);
    at::Tensor all = at::empty({length}, at::kLong);
    for (int64_t i = 0; i < length; ++i) {
      int64_t& n = number[static_cast<unsigned char>(bytes[static_cast<size_t>(i)])];
      if (n < 0) n = vocabulary++;
      all.data_ptr<int64_t>()[i] = n;
    }
    train = all.slice(0, 0, length - length / 10);
    held_out = all.slice(0, length - length / 10);
  }
};

/// Attention to what came before and a perceptron, each added to what goes in.
class LayerImpl : public nn::Module {
 public:
  LayerImpl() {
    register_module("attention_norm", attention_norm_);
    register_module("attention", attention_);
    register_module("attention_out", attention_out_);
    register_module("perceptron_norm", perceptron_norm_);
    register_module("perceptron", perceptron_);
    register_module("perceptron_out", perceptron_out_);
  }

  at::Tensor forward(const at::Tensor& x) {
    const at::Tensor h = x + attend(attention_norm_(x));
    return h + perceptron_out_(at::gelu(perceptron_(perceptron_norm_(h))));
  }

 private:
  at::Tensor attend(const at::Tensor& x) {
    const int64_t batch = x.size(0), length = x.size(1);
    const at::Tensor parts = attention_(x)
                                 .view({batch, length, 3, kHeads, kWidth / kHeads})
                                 .permute({2, 0, 3, 1, 4});  // [3, B, heads, T, width of a head]
    const at::Tensor y = at::scaled_dot_product_attention(parts[0], parts[1], parts[2], {},
                                                          /*dropout_p=*/0, /*is_causal=*/true);
    return attention_out_(y.transpose(1, 2).reshape({batch, length, kWidth}));
  }

  nn::LayerNorm attention_norm_{nn::LayerNormOptions({kWidth})};
  nn::Linear attention_{kWidth, 3 * kWidth};
  nn::Linear attention_out_{kWidth, kWidth};
  nn::LayerNorm perceptron_norm_{nn::LayerNormOptions({kWidth})};
  nn::Linear perceptron_{kWidth, 4 * kWidth};
  nn::Linear perceptron_out_{4 * kWidth, kWidth};
};
TORCH_MODULE(Layer);

/// GPT-2's arrangement, with an output layer of its own.
class DecoderImpl : public nn::Module {
 public:
  explicit DecoderImpl(int64_t vocabulary)
      : tokens_(vocabulary, kWidth), head_(nn::LinearOptions(kWidth, vocabulary).bias(false)) {
    register_module("token_embedding", tokens_);
    register_module("position_embedding", positions_);
    for (int64_t i = 0; i < kLayers; ++i) layers_->push_back(Layer());
    register_module("layers", layers_);
    register_module("norm", norm_);
    register_module("head", head_);
  }

  at::Tensor forward(const at::Tensor& x) {
    const at::Tensor h = tokens_(x) + positions_(at::arange(x.size(1), at::kLong));
    return head_(norm_(layers_->forward(h)));
  }

 private:
  nn::Embedding tokens_;
  nn::Embedding positions_{kContext, kWidth};
  nn::Sequential layers_;
  nn::LayerNorm norm_{nn::LayerNormOptions({kWidth})};
  nn::Linear head_;
};
TORCH_MODULE(Decoder);

class Writer : public Trainee {
 public:
  Writer(std::shared_ptr<const Text> text, int64_t batch, uint64_t seed)
      : text_(std::move(text)),
        batch_(batch),
        generator_(at::make_generator<at::CPUGeneratorImpl>(seed)) {
    torch::manual_seed(seed);
    net_ = Decoder(text_->vocabulary);
  }

  std::vector<NamedTensor> parameters() const override { return named_parameters(*net_); }

  at::Tensor next_loss() override {
    const int64_t places = text_->train.size(0) - kContext;
    return loss(text_->train, at::randint(places, {batch_}, generator_, at::kLong));
  }

  double held_out_loss() override {
    const at::NoGradGuard no_grad;
    const int64_t places = text_->held_out.size(0) - kContext;
    const int64_t windows = std::min(kHeldOutWindows, places);
    const at::Tensor begins = at::arange(windows, at::kLong) * (places / windows);
    return loss(text_->held_out, begins).item<double>();
  }

 private:
  /// Of predicting the next byte in windows of `source`.
  at::Tensor loss(const at::Tensor& source, const at::Tensor& begins) {
    const at::Tensor places = begins.unsqueeze(1) + at::arange(kContext + 1, at::kLong);
    const at::Tensor windows = source.index({places});
    const at::Tensor output = net_(windows.slice(1, 0, kContext));
    return at::cross_entropy_loss(output.flatten(0, 1), windows.slice(1, 1).flatten());
  }

  std::shared_ptr<const Text> text_;
  int64_t batch_;
  at::Generator generator_;
  Decoder net_{nullptr};
};

}  // namespace

Problem character_gpt(const std::filesystem::path& file, int64_t batch, int64_t num_steps) {
  const auto text = std::make_shared<const Text>(file);
  return {.name = "character-gpt",
          .num_steps = num_steps,
          .sizes = {{"batch", batch},
                    {"context", kContext},
                    {"vocabulary", text->vocabulary},
                    {"held_out", kHeldOutWindows * kContext}},
          .start = [=](uint64_t seed) { return std::make_unique<Writer>(text, batch, seed); }};
}

}  // namespace curvature::benchmark
