// The GGN blocks of the layers of a trained network beside what K-FAC, EK-FAC and KFOC make of
// them. Prints for each layer and matrix its title, with the relative Frobenius error, and its
// rows; docs/pictures/draw.sh plots them.
#include <iomanip>
#include <iostream>

#include <curvature/layerwise/kfac.hpp>
#include <curvature/matrix_free/ggn.hpp>
#include <curvature/operators/submatrix.hpp>

#include "digits.hpp"

void print(const std::string& title, const torch::Tensor& matrix) {
  std::cout << "# " << title << '\n';
  for (const torch::Tensor& row : matrix.unbind()) {
    for (const torch::Tensor& entry : row.unbind()) std::cout << entry.item<double>() << ' ';
    std::cout << '\n';
  }
  std::cout << "\n\n";
}

int main() {
  torch::manual_seed(0);
  torch::nn::Sequential net(torch::nn::Conv2d(torch::nn::Conv2dOptions(1, 6, 3).stride(2)),
                            torch::nn::GELU(), torch::nn::Flatten(), torch::nn::Linear(54, 6),
                            torch::nn::GELU(), torch::nn::Linear(6, 10));
  net->to(torch::kDouble);
  const Digits data = load_digits();
  train(net, data, 5);
  const curvature::EmpiricalRisk risk(
      curvature::Model::from_module(net), curvature::cross_entropy(),
      curvature::tensor_dataset({data.images.slice(0, 0, 500)}, data.labels.slice(0, 0, 500), 500));

  const auto ggn = curvature::ggn(risk);
  const std::vector<std::pair<std::string, curvature::OperatorPtr>> models = {
      {"K-FAC", curvature::kfac(risk)},
      {"EK-FAC", curvature::ekfac(risk)},
      {"KFOC", curvature::kfoc(risk)}};
  for (const auto& [name, layer] : {std::pair("convolution", "0"), std::pair("last layer", "5")}) {
    const std::vector<std::string> names = {layer + std::string(".weight"),
                                            layer + std::string(".bias")};
    const auto block = [&names](const curvature::OperatorPtr& a) {
      return curvature::materialize(*curvature::submatrix_by_name(a, names, names));
    };
    const torch::Tensor exact = block(ggn);
    print(name + std::string(": GGN"), exact);
    std::vector<double> errors;
    for (const auto& [model, a] : models) {
      const torch::Tensor difference = block(a) - exact;
      errors.push_back((difference.norm() / exact.norm()).item<double>());
      std::ostringstream title;
      title << model << ", error " << std::setprecision(2) << 100 * errors.back() << " %";
      print(title.str(), difference + exact);
      print(model + " - GGN", difference);
    }
    if (errors[2] > errors[0]) std::cout << "wrong: KFOC is the nearest Kronecker product\n";
  }
}
