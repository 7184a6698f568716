#include "optim/model_minimizer.hpp"

#include <cmath>
#include <limits>
#include <utility>

#include "core/check.hpp"
#include "core/inner_product.hpp"

namespace curvature::optim::detail {
namespace {

double checked_rate(double learning_rate, const std::string& who) {
  CURVATURE_CHECK(learning_rate >= 0 && std::isfinite(learning_rate), OptionError,
                  "{}: the learning rate must be finite and not negative; got {}", who,
                  learning_rate);
  return learning_rate;
}

}  // namespace

ModelMinimizer::ModelMinimizer(EmpiricalRisk risk, std::string name, double learning_rate)
    : risk_(std::move(risk)),
      name_(std::move(name)),
      learning_rate_(checked_rate(learning_rate, name_)) {}

StepReport ModelMinimizer::step(const EmpiricalRisk& batch) {
  check_same_parameters(batch, risk_, name_);
  return step_from(batch, point_of(batch));
}

Point ModelMinimizer::point_of(const EmpiricalRisk& batch) {
  const LossAndGradient at = batch.loss_and_gradient();
  Point point{.parameters = flat_parameters(batch),
              .gradient = flat(batch.space(), at.gradient),
              .loss = at.loss};
  point.gradient_norm = curvature::detail::norm(point.gradient);
  return point;
}

void ModelMinimizer::set_learning_rate(double learning_rate) {
  learning_rate_ = checked_rate(learning_rate, name_);
}

Archive ModelMinimizer::save() const {
  StateWriter writer(format());
  writer.number("learning_rate", learning_rate_);
  save_state(writer);
  return std::move(writer).take();
}

void ModelMinimizer::load(const Archive& archive) {
  const StateReader reader(archive, format());
  const double learning_rate = reader.number("learning_rate");
  CURVATURE_CHECK(learning_rate >= 0 && std::isfinite(learning_rate), DataError,
                  "{}: the saved learning rate is {}", name_, learning_rate);
  load_state(reader);
  learning_rate_ = learning_rate;
}

at::TensorOptions ModelMinimizer::options() const {
  return risk_.parameters().front().options().requires_grad(false);
}

int64_t ModelMinimizer::vector_bytes() const {
  return risk_.space().size() * static_cast<int64_t>(options().dtype().itemsize());
}

double ModelMinimizer::loss_rounding(double loss) const {
  const double epsilon = options().dtype() == at::kDouble
                             ? std::numeric_limits<double>::epsilon()
                             : double{std::numeric_limits<float>::epsilon()};
  return 4 * epsilon * std::abs(loss);
}

StepReport ModelMinimizer::standstill(const Point& point) {
  return {.loss = point.loss, .gradient_norm = point.gradient_norm, .accepted = false};
}

}  // namespace curvature::optim::detail
