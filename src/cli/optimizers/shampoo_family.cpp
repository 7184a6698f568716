#include <curvature/optim/kl_shampoo_estimator.hpp>
#include <curvature/optim/shampoo_estimator.hpp>
#include <curvature/optim/soap_estimator.hpp>
#include <curvature/optim/spiked_kl_shampoo_estimator.hpp>

#include "cli/optimizers/families.hpp"
#include "cli/optimizers/shell.hpp"
#include "cli/optimizers/words.hpp"

namespace curvature::cli {
namespace {

using optim::BasisMethod;
using optim::FirstGradient;
using optim::Transport;
using optim::UpdateOrder;

const Words<optim::RootMethod> kRootMethods = {{"eigh", optim::RootMethod::kEigh},
                                               {"newton", optim::RootMethod::kNewton},
                                               {"third-order", optim::RootMethod::kThirdOrder}};

OptimizerOption refresh_option(int64_t interval) {
  return integer_option("refresh_interval", interval, "steps between renewals");
}

OptimizerOption start_option() { return integer_option("start", 1, "the first renewal"); }

OptimizerOptions turn_options() {
  return {flag_option("stagger", false, "parameters take turns in being renewed"),
          number_option("tolerance", 0,
                        "a basis is left while its factor's entries off the diagonal are at most "
                        "this part of it")};
}

OptimizerOption order_option(UpdateOrder first) {
  std::vector<std::string> words = {"update_first", "precondition_first"};
  if (first == UpdateOrder::kPreconditionFirst) std::swap(words[0], words[1]);
  return choice_option("order", words, "whether a gradient preconditions its own step");
}

OptimizerOption method_option(BasisMethod first) {
  std::vector<std::string> words = {"eigh", "qr"};
  if (first == BasisMethod::kQr) std::swap(words[0], words[1]);
  return choice_option("basis_method", words,
                       "how a basis is renewed: eigenvectors, or one step of orthogonal iteration");
}

OptimizerOptions parity_options() {
  return {choice_option("first_gradient", {"use", "basis_only"},
                        "what the first gradient is for: a step, or the basis alone"),
          choice_option("transport", {"keep", "mix"},
                        "whether second moments along a basis follow when it changes")};
}

UpdateOrder order_of(const OptionValues& values) {
  return values.word("order") == "update_first" ? UpdateOrder::kUpdateFirst
                                                : UpdateOrder::kPreconditionFirst;
}

FirstGradient first_gradient_of(const OptionValues& values) {
  return values.word("first_gradient") == "use" ? FirstGradient::kUse : FirstGradient::kBasisOnly;
}

Transport transport_of(const OptionValues& values) {
  return values.word("transport") == "keep" ? Transport::kKeep : Transport::kMix;
}

optim::RefreshOptions refresh_of(const OptionValues& values) {
  return {
      .interval = values.integer("refresh_interval"),
      .start = values.has("start") ? values.integer("start") : values.integer("refresh_interval"),
      .warm = values.has("warm_refresh") ? values.integer("warm_refresh") : 0,
      .stagger = values.flag("stagger"),
      .tolerance = values.number("tolerance")};
}

OptimizerEntry shampoo() {
  return shell_entry(
      "shampoo", "second moments of rows and columns, to the power -1/4 each",
      joined({step_options(),
              moment_options(),
              matrix_options(),
              turn_options(),
              {number_option("factor_epsilon", 1e-12, "added to the factors"),
               number_or_word("exponent", "auto", "p of the power -p of each factor; auto: 1/(2k)"),
               choice_option("accumulate", {"ema", "sum"}, "averages, or sums as in AdaGrad"),
               flag_option("trace_scaling", false, "divides the product of the factors by a trace"),
               number_option("rank_tolerance", 0,
                             "eigenvalues up to this part of the largest count as 0"),
               choice("root", kRootMethods, "how powers of factors are computed"),
               refresh_option(1), start_option()}}),
      [](const OptionValues& values, const OptimizerContext&) {
        return optim::shampoo_estimator({.beta2 = values.number("beta2"),
                                         .factor_epsilon = values.number("factor_epsilon"),
                                         .exponent = values.number_unless_word("exponent"),
                                         .accumulate_sum = values.word("accumulate") == "sum",
                                         .trace_scaling = values.flag("trace_scaling"),
                                         .rank_tolerance = values.number("rank_tolerance"),
                                         .root = chosen(values, "root", kRootMethods),
                                         .refresh = refresh_of(values)});
      });
}

/// SOAP and EShampoo, which differ in their defaults.
OptimizerEntry soap(const std::string& name, const std::string& description,
                    const optim::SoapEstimatorOptions& defaults) {
  return shell_entry(
      name, description,
      joined({step_options(),
              moment_options(),
              matrix_options(),
              turn_options(),
              parity_options(),
              {number_or_word("shampoo_beta", "beta2", "decay of the factors"),
               number_option("exponent", 0.5, "of the second moment"), order_option(defaults.order),
               method_option(defaults.basis_method), refresh_option(10), start_option()}}),
      [](const OptionValues& values, const OptimizerContext&) {
        return optim::soap_estimator({.beta2 = values.number("beta2"),
                                      .shampoo_beta = values.number_unless_word("shampoo_beta"),
                                      .epsilon = values.number("epsilon"),
                                      .exponent = values.number("exponent"),
                                      .order = order_of(values),
                                      .basis_method = values.word("basis_method") == "eigh"
                                                          ? BasisMethod::kEigh
                                                          : BasisMethod::kQr,
                                      .transport = transport_of(values),
                                      .first_gradient = first_gradient_of(values),
                                      .refresh = refresh_of(values)});
      });
}

/// KL-Shampoo in all its forms: `form` has what is not an option.
OptimizerEntry kl_shampoo(const std::string& name, const std::string& description,
                          const optim::KlShampooEstimatorOptions& form) {
  const bool exact = form.eigenvalues == optim::Eigenvalues::kFactor;
  return shell_entry(
      name, description,
      joined(
          {step_options(),
           moment_options(),
           matrix_options(),
           turn_options(),
           parity_options(),
           {number_option("damping", 0, "d: models the second moment plus d I"),
            number_option("divergence", 0,
                          "q: 0 Kullback-Leibler, 1/2 square root, 1 von Neumann, 2 Frobenius"),
            number_option("exponent", 0.5, "of the operator"),
            flag_option("debias", true, "the start counts as one gradient"),
            flag_option("balance", true, "factors get equal mean eigenvalues"),
            number_or_word("initial_eigenvalue", "auto",
                           "of each factor; auto: from the first gradient"),
            order_option(form.order), refresh_option(exact ? 1 : 10),
            integer_option("warm_refresh", exact ? 0 : 20, "every step up to this one renews")}}),
      [form](const OptionValues& values, const OptimizerContext&) {
        optim::KlShampooEstimatorOptions options = form;
        options.beta2 = values.number("beta2");
        options.epsilon = values.number("epsilon");
        options.exponent = values.number("exponent");
        options.damping = values.number("damping");
        options.divergence = values.number("divergence");
        options.debias = values.flag("debias");
        options.balance = values.flag("balance");
        options.order = order_of(values);
        options.transport = transport_of(values);
        options.first_gradient = first_gradient_of(values);
        options.initial_eigenvalue = values.number_unless_word("initial_eigenvalue");
        options.refresh = refresh_of(values);
        return optim::kl_shampoo_estimator(options);
      });
}

OptimizerEntry spiked_kl_shampoo() {
  return shell_entry(
      "spiked-kl-shampoo", "KL-Shampoo with few eigenpairs and one value for all others",
      joined(
          {step_options(),
           moment_options(),
           matrix_options(),
           {integer_option("rank", 16, "eigenpairs of each factor"),
            number_option("damping", 0, "d: models the second moment plus d I"),
            number_option("exponent", 0.5, "of the operator"),
            flag_option("debias", true, "the start counts as one gradient"),
            flag_option("balance", true, "factors get equal mean eigenvalues"), refresh_option(10),
            integer_option("warm_refresh", 20, "every step up to this one renews"),
            flag_option("stagger", false, "parameters take turns in being renewed")}}),
      [](const OptionValues& values, const OptimizerContext& context) {
        const int64_t interval = values.integer("refresh_interval");
        return optim::spiked_kl_shampoo_estimator(
            {.rank = values.integer("rank"),
             .beta2 = values.number("beta2"),
             .exponent = values.number("exponent"),
             .damping = values.number("damping"),
             .debias = values.flag("debias"),
             .balance = values.flag("balance"),
             .refresh = {.interval = interval,
                         .start = interval,
                         .warm = values.integer("warm_refresh"),
                         .stagger = values.flag("stagger")},
             .seed = context.random.seed()});
      });
}

}  // namespace

std::vector<OptimizerEntry> shampoo_family_optimizers() {
  return {shampoo(),
          soap("soap", "Adam in the eigenbasis of Shampoo's factors, which follows by QR",
               optim::SoapEstimatorOptions()),
          soap("eshampoo", "the same, with eigenvectors that are renewed first",
               optim::eshampoo_options()),
          kl_shampoo("kl-shampoo", "the nearest Kronecker product by KL divergence, basis by QR",
                     optim::KlShampooEstimatorOptions()),
          kl_shampoo("kl-shampoo-exact", "the same with exact roots in every step",
                     optim::exact_kl_shampoo_options()),
          kl_shampoo("kl-soap", "Adam in the eigenbasis of KL-Shampoo", optim::kl_soap_options()),
          spiked_kl_shampoo()};
}

}  // namespace curvature::cli
