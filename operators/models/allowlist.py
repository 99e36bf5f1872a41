"""Which classes and functions a stored model may name.

Lives here: the list for what River's models build while they learn, and the rule for what
no list may hold.  Never here: bytes, keys, pickles (`artefacts.py`).

Strategy: exact (module, name) pairs.  A list of module prefixes is no wall: under "river."
stand modules that import `os`.  Nor is an exact list that holds `builtins.getattr`; River's
models that need it store their methods by `artefacts.bound_method`.  A model's own classes
are not listed here: they are read off the pipeline's fresh models (`artefacts.allow_for`).

The list is the second wall.  Objects of allowed classes can still be given any attributes
and allowed functions any arguments; so nothing without a right MAC comes this far.
"""

from __future__ import annotations

import sys

__all__ = ["BASE", "AllowList", "denied"]

AllowList = frozenset[tuple[str, str]]
"""Exact (module, name) pairs that a stored model may name."""

_BUILT_WHILE_LEARNING = """
operators.models.artefacts: bound_method static_function text_method unseeded
operators.models.guards: Copied FirstLesson KnownNames KnownValues
builtins: bool complex dict float frozenset int list object set str tuple
collections: Counter OrderedDict defaultdict deque
functools: partial
random: Random
numpy: dtype ndarray
numpy._core.multiarray: _reconstruct scalar
numpy._core.numeric: _frombuffer
river._river_rust.drift: AdaptiveWindowing
river._river_rust.stats: RsEWMean RsEWVar RsIQR RsKurtosis RsPeakToPeak RsQuantile RsRollingIQR
river._river_rust.stats: RsRollingPRAUC RsRollingQuantile RsRollingROCAUC RsSkew
river._river_rust.vectordict: VectorDict
river.drift.adwin: ADWIN
river.drift.binary.hddm_w: SampleInfo
river.drift.no_drift: NoDrift
river.forest.adaptive_random_forest: BaseTreeClassifier BaseTreeRegressor
river.forest.online_extra_trees: BaggingSampler ConstantSampler ETRegressor SubBaggingSampler
river.imblearn.hard_sampling: Triplet
river.linear_model.lin_reg: LinearRegression
river.linear_model.log_reg: LogisticRegression
river.optim.initializers: Zeros
river.optim.losses: Log Squared
river.optim.schedulers: Constant
river.optim.sgd: SGD
river.proba.beta: Beta
river.proba.gaussian: Gaussian MultivariateGaussian
river.proba.multinomial: Multinomial
river.rules.amrules: AdaptiveRegressor MeanRegressor RegRule
river.rules.base: NominalLiteral NumericLiteral
river.stats.auto_corr: AutoCorr
river.stats.chi_squared: ChiSquared
river.stats.count: Count
river.stats.cov: Cov
river.stats.entropy: Entropy
river.stats.ewcov: EWCov
river.stats.ewmean: EWMean
river.stats.ewvar: EWVar
river.stats.iqr: IQR RollingIQR
river.stats.kolmogorov_smirnov: KolmogorovSmirnov _Node
river.stats.kurtosis: Kurtosis
river.stats.mad: MAD
river.stats.maximum: AbsMax Max RollingAbsMax RollingMax
river.stats.mean: BayesianMean Mean
river.stats.minimum: Min RollingMin
river.stats.mode: Mode RollingMode
river.stats.pearson: PearsonCorr
river.stats.ptp: PeakToPeak RollingPeakToPeak
river.stats.quantile: Quantile RollingQuantile
river.stats.sem: SEM
river.stats.shift: Shift
river.stats.skew: Skew
river.stats.summing: Sum
river.stats.var: Var
river.tree.losses: BinaryCrossEntropyLoss SquaredErrorLoss
river.tree.mondrian.mondrian_tree_classifier: MondrianTreeClassifier
river.tree.mondrian.mondrian_tree_nodes: MondrianBranchClassifier MondrianBranchRegressor
river.tree.mondrian.mondrian_tree_nodes: MondrianLeafClassifier MondrianLeafRegressor
river.tree.mondrian.mondrian_tree_regressor: MondrianTreeRegressor
river.tree.nodes.arf_htc_nodes: RandomLeafMajorityClass RandomLeafNaiveBayes RandomLeafNaiveBayesAdaptive
river.tree.nodes.arf_htr_nodes: RandomLeafAdaptive RandomLeafMean RandomLeafModel
river.tree.nodes.branch: NominalBinaryBranch NominalMultiwayBranch NumericBinaryBranch
river.tree.nodes.branch: NumericMultiwayBranch
river.tree.nodes.efdtc_nodes: EFDTLeafMajorityClass EFDTLeafNaiveBayes EFDTLeafNaiveBayesAdaptive
river.tree.nodes.efdtc_nodes: EFDTNominalBinaryBranch EFDTNominalMultiwayBranch EFDTNumericBinaryBranch
river.tree.nodes.efdtc_nodes: EFDTNumericMultiwayBranch
river.tree.nodes.et_nodes: ETLeafAdaptive ETLeafMean ETLeafModel
river.tree.nodes.hatc_nodes: AdaLeafClassifier AdaNomBinaryBranchClass AdaNomMultiwayBranchClass
river.tree.nodes.hatc_nodes: AdaNumBinaryBranchClass AdaNumMultiwayBranchClass
river.tree.nodes.hatr_nodes: AdaLeafRegAdaptive AdaLeafRegMean AdaLeafRegModel AdaNomBinaryBranchReg
river.tree.nodes.hatr_nodes: AdaNomMultiwayBranchReg AdaNumBinaryBranchReg AdaNumMultiwayBranchReg
river.tree.nodes.htc_nodes: LeafMajorityClass LeafNaiveBayes LeafNaiveBayesAdaptive
river.tree.nodes.htr_nodes: LeafAdaptive LeafMean LeafModel
river.tree.nodes.last_nodes: LeafMajorityClassWithDetector LeafNaiveBayesAdaptiveWithDetector
river.tree.nodes.last_nodes: LeafNaiveBayesWithDetector
river.tree.nodes.sgt_nodes: SGTLeaf
river.tree.split_criterion.gini_split_criterion: GiniSplitCriterion
river.tree.split_criterion.hellinger_distance_criterion: HellingerDistanceCriterion
river.tree.split_criterion.info_gain_split_criterion: InfoGainSplitCriterion
river.tree.split_criterion.variance_ratio_split_criterion: VarianceRatioSplitCriterion
river.tree.split_criterion.variance_reduction_split_criterion: VarianceReductionSplitCriterion
river.tree.splitter.ebst_splitter: EBSTNode EBSTSplitter
river.tree.splitter.exhaustive_splitter: ExhaustiveNode ExhaustiveSplitter
river.tree.splitter.gaussian_splitter: GaussianSplitter
river.tree.splitter.histogram_splitter: HistogramSplitter
river.tree.splitter.nominal_splitter_classif: NominalSplitterClassif
river.tree.splitter.nominal_splitter_reg: NominalSplitterReg
river.tree.splitter.qo_splitter: FeatureQuantizer QOSplitter Slot
river.tree.splitter.random_splitter: RegRandomSplitter
river.tree.splitter.sgt_quantizer: DynamicQuantizer StaticQuantizer
river.tree.splitter.tebst_splitter: TEBSTSplitter
river.tree.utils: BranchFactory GradHess GradHessMerit GradHessStats
river.utils.rolling: Rolling TimeRolling
river.utils.sorted_window: SortedWindow
"""
"""Module and names, one module a line; River 0.26.1: nodes, splitters, leaf models, statistics."""

_HARMLESS = """
builtins: abs bytearray bytes iter len max min range reversed round slice sorted sum zip
collections: ChainMap
copy: copy deepcopy
datetime: date datetime time timedelta timezone
decimal: Decimal
fractions: Fraction
itertools: count cycle
operator: itemgetter
re: _compile
statistics: NormalDist
numpy.random._mt19937: MT19937
numpy.random._pcg64: PCG64
numpy.random._pickle: __bit_generator_ctor __generator_ctor __randomstate_ctor
"""
"""What a pipeline's own models may name besides, of the standard library and numpy; all of `math` too."""

_NEVER = ("river.datasets", "river.stream", "river.compat", "river.checks", "river.bandit.datasets")
"""River's modules that download, open files or wrap other libraries."""


def _pairs(table: str) -> AllowList:
    rows = (line.split(": ") for line in table.strip().splitlines())
    return frozenset((module, name) for module, names in rows for name in names.split())


BASE = _pairs(_BUILT_WHILE_LEARNING)
"""The pairs that every list holds."""
_OTHERS = _pairs(_HARMLESS)


def denied(module: str, name: str) -> bool:
    """Return whether no list may hold this pair, whatever a pipeline's models need.

    Denied is all of the standard library and numpy but the few pairs of this file, what River
    uses to read files and the network, and names with a dot, which walk into other modules.

    >>> denied("os", "system"), denied("builtins", "getattr"), denied("river.stats.mean", "Mean")
    (True, True, False)
    """
    if (module, name) in BASE or (module, name) in _OTHERS or module == "math":
        return False
    if "." in name:
        return True
    root = module.partition(".")[0]
    if root in sys.stdlib_module_names or root == "numpy":
        return True
    return any(module == never or module.startswith(f"{never}.") for never in _NEVER)
