#include <utility>

#include <curvature/matrix_free/ggn.hpp>
#include <curvature/operators/algebra.hpp>

#include "core/check.hpp"
#include "optim/curvature_source.hpp"

namespace curvature::optim::detail {
namespace {

class LowRankSource final : public CurvatureSource {
 public:
  LowRankSource(Fisher fisher, const MonteCarloOptions& monte_carlo)
      : fisher_(fisher), monte_carlo_(monte_carlo) {
    CURVATURE_CHECK(fisher != Fisher::kForwardOnly, OptionError,
                    "natural gradient: forward-only has no matrix of the whole; use kfac");
    CURVATURE_CHECK(monte_carlo.samples > 0, OptionError,
                    "natural gradient: mc_samples must be at least 1; got {}", monte_carlo.samples);
  }

  std::unique_ptr<CurvatureSource> copy() const override {
    return std::make_unique<LowRankSource>(*this);
  }

  void observe(const EmpiricalRisk& batch, Sample sample) override {
    operator_ = scaled(low_rank(batch), sample.scale);
    ++steps_;
  }

  OperatorPtr curvature() const override { return operator_; }

  void save(StateWriter& writer) const override {
    writer.number("steps", static_cast<double>(steps_));
  }

  void load(const StateReader& reader) override {
    steps_ = static_cast<int64_t>(reader.number("steps"));
    operator_ = nullptr;
  }

  int64_t bytes() const override { return 0; }

 private:
  OperatorPtr low_rank(const EmpiricalRisk& batch) const {
    if (fisher_ == Fisher::kEmpirical) return empirical_fisher_low_rank(batch);
    const double weight_decay = batch.options().weight_decay;
    if (fisher_ == Fisher::kType2) return shifted(ggn_low_rank(batch), -weight_decay);
    MonteCarloOptions monte_carlo = monte_carlo_;
    monte_carlo.random = monte_carlo.random.derive(static_cast<uint64_t>(steps_));
    return shifted(ggn_mc_low_rank(batch, monte_carlo), -weight_decay);
  }

  Fisher fisher_;
  MonteCarloOptions monte_carlo_;
  int64_t steps_ = 0;
  OperatorPtr operator_;  ///< of the last batch; not part of the state, every step has its own
};

}  // namespace

std::unique_ptr<CurvatureSource> low_rank_source(Fisher fisher,
                                                 const MonteCarloOptions& monte_carlo) {
  return std::make_unique<LowRankSource>(fisher, monte_carlo);
}

}  // namespace curvature::optim::detail
