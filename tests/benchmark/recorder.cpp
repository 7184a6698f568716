#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <vector>

#include <ATen/ops/add.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>

#include "child.hpp"
#include "recorder.hpp"

namespace curvature::benchmark {
namespace {

constexpr size_t kMinRepeats = 3;
constexpr size_t kMaxRepeats = 30;
constexpr int64_t kRowsAtOnce = 1 << 16;  // doubles of a whole operand would be a row's peak memory

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Sorted seconds of repeated calls.
std::vector<double> sample(const std::function<void()>& work, double budget) {
  const double warm_up = seconds_of(work);
  if (warm_up > budget) return {warm_up};
  std::vector<double> samples;
  double total = 0;
  double longest = 0;
  while (samples.size() < kMinRepeats ||
         (samples.size() < kMaxRepeats && total + longest < budget)) {
    samples.push_back(seconds_of(work));
    total += samples.back();
    longest = std::max(longest, samples.back());
  }
  std::sort(samples.begin(), samples.end());
  return samples;
}

double median(const std::vector<double>& sorted) {
  const size_t middle = sorted.size() / 2;
  return sorted.size() % 2 == 1 ? sorted[middle]
                                : std::midpoint(sorted[middle - 1], sorted[middle]);
}

double peak_rss_mb() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

}  // namespace

void Recorder::measure(const std::string& operation, const std::string& phase,
                       const std::function<void()>& work,
                       const std::function<Json()>& extra) const {
  Json row = identity_;
  row["operation"] = operation;
  row["phase"] = phase;
  send(sink_, row);  // names the row, should it fail
  const std::vector<double> samples = sample(work, budget_);
  row["median_s"] = median(samples);
  row["min_s"] = samples.front();
  row["repeats"] = samples.size();
  row["peak_rss_mb"] = peak_rss_mb();
  if (extra) row.update(extra());
  send(sink_, row);
}

void Recorder::product(const std::string& operation, const LinearOperator& a,
                       int64_t columns) const {
  const at::Tensor v = probe(a, columns);
  at::Tensor result;
  measure(
      operation, "product", [&] { result = a.apply(v); },
      [&] {
        return Json{{"value", inner(v.t(), result.t())}};
      });
}

at::Tensor probe(const LinearOperator& a, int64_t columns) {
  const auto options = at::TensorOptions().dtype(a.spec().dtype).device(a.spec().device);
  const at::Tensor probe = at::empty({columns, a.cols()}, options).t();  // as operators answer
  for (int64_t begin = 0; begin < a.cols(); begin += kRowsAtOnce) {
    const int64_t end = std::min(begin + kRowsAtOnce, a.cols());
    const at::Tensor index = at::arange(begin, end, at::kDouble).unsqueeze(1);
    probe.narrow(0, begin, end - begin)
        .copy_(at::add(index, at::arange(columns, at::kDouble)).cos());
  }
  return columns == 1 ? probe.squeeze(1) : probe;
}

double inner(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.reshape({-1}), y = b.reshape({-1});
  double sum = 0;
  for (int64_t begin = 0; begin < x.size(0); begin += kRowsAtOnce) {
    const int64_t count = std::min(kRowsAtOnce, x.size(0) - begin);
    sum += x.narrow(0, begin, count)
               .to(at::kDouble)
               .dot(y.narrow(0, begin, count).to(at::kDouble))
               .item<double>();
  }
  return sum;
}

}  // namespace curvature::benchmark
