"""Bad input of objectives, networks and models."""

from typing import Any

from bad_calls import Row, X, Y, loss, new, train
from cases import Part

OBJECTIVES: dict[str, Row] = {
    "k-0": (loss("ELBO", k=0), "k should be .*at least 1, was 0"),
    "k-true": (loss("ELBO", k=True), "k should be a whole number.*was True"),
    "k-half": (loss("ELBO", k=2.5), "k should be a whole number.*was 2.5"),
    "nesting-0": (loss("ELBO", max_plate_nesting=0), "max_plate_nesting .*at least 1, was 0"),
    "beta-negative": (loss("ELBO", beta=-1.0), "beta should be at least 0, was -1.0"),
    "beta-infinite": (loss("ELBO", beta=float("inf")), "beta should be finite, was inf"),
    "free-bits-infinite": (loss("ELBO", free_bits=float("inf")), "free_bits should be finite"),
    "free-bits-negative": (loss("FreeBits", -1.0), "nats should be at least 0, was -1.0"),
    "free-bits-per": (loss("FreeBits", 1.0, "dim"), "per should be site or unit, was 'dim'"),
    "baseline-ELBO": (loss("ELBO", baseline="mean"), "baseline should be .*was 'mean'"),
    "alpha-negative": (loss("SemiSupervised", -1.0), "alpha should be at least 0, was -1.0"),
    "alpha-nan": (loss("SemiSupervised", float("nan")), "alpha should be at least 0, was nan"),
    "alpha-infinite": (loss("SemiSupervised", float("inf")), "alpha should be finite, was inf"),
    "alpha-text": (loss("SemiSupervised", "1"), "alpha should be at least 0, was '1'"),
    "fraction": (
        loss("SemiSupervised", labelled_fraction=2),
        r"labelled_fraction .*\[0, 1\], was 2",
    ),
    "fraction-text": (
        loss("SemiSupervised", labelled_fraction="all"),
        r"labelled_fraction .*\[0, 1\], was 'all'",
    ),
    "labelled-first": (
        loss("SemiSupervised", labelled_first=-1),
        "labelled_first should be a whole number of at least 0, was -1",
    ),
    "per-batch-0": (
        loss("SemiSupervised", labelled_per_batch=0),
        "labelled_per_batch .*1, was 0",
    ),
    "groups": (loss("IWAE", 3, groups="a"), "groups should be a whole number.*1, was 'a'"),
    "miwae-m": (loss("MIWAE", 0, 3), "m should be a whole number of at least 1, was 0"),
    "piwae-m": (loss("PIWAE", 1.5, 3), "m should be a whole number of at least 1, was 1.5"),
    "ciwae-beta": (loss("CIWAE", 2.0, 3), r"beta should be a number in \[0, 1\], was 2.0"),
    "renyi-1": (loss("Renyi", 1.0, 3), "alpha should not be 1.*use ELBO"),
    "renyi-text": (loss("Renyi", "a", 3), "alpha should be a number or -inf, was 'a'"),
    "cubo-1": (loss("CUBO", 1.0, 3), "n should be a number above 1, was 1.0"),
    "vimco-1": (loss("VIMCO", 1), "k should be a whole number of at least 2, was 1"),
    "vimco-mean": (loss("VIMCO", 3, "harmonic"), ".*should be .*was 'harmonic'"),
    "tvo-bound": (loss("TVO", 3, 2, "middle"), "bound should be .*was 'middle'"),
    "tvo-k": (loss("TVO", 1, 2), "k should be a whole number of at least 2, was 1"),
    "tvo-partitions": (loss("TVO", 3, 0), "partitions should be a whole .*1, was 0"),
    "tvo-points": (loss("TVO", 3, (0.0, 0.5)), r"partitions should be .*was \(0.0, 0.5\)"),
    "rws-no-phase": (
        loss("RWS", 3, wake_phi=False),
        "wake_phi or sleep_phi should be True .*, was neither",
    ),
    "rws-1": (loss("RWS", 1), "k should be at least 2 with wake_phi, was 1.*use WakeSleep"),
    "temperature": (loss("Relaxed", 0.0), "temperature should be a positive number, was 0.0"),
    "tolerance": (loss("GECO", float("inf")), "tolerance should be a finite number, was inf"),
    "geco-no-latents": (
        train("classifier", (X, Y), Part("GECO", {"tolerance": 1.0})),
        "guide should draw a latent site, .*drew none",
    ),
    "beta-no-latents": (
        train("classifier", (X, Y), Part("ELBO", {"beta": 0.5})),
        "beta should be left out for a guide that draws no latent site",
    ),
    "free-bits-no-latents": (
        train("classifier", (X, Y), Part("ELBO", {"free_bits": 0.5})),
        "free_bits should be left out for a guide that draws no latent site",
    ),
    "geco-rate": (loss("GECO", 1.0, rate=0.0), "rate should be a positive number, was 0.0"),
    "geco-decay": (loss("GECO", 1.0, decay=1.5), r"decay .*\[0, 1\], was 1.5"),
    "geco-update": (loss("GECO", 1.0, update="adam"), "update should be one of .*was 'adam'"),
    "geco-inner": (loss("GECO", 1.0, inner="zeta"), "inner should be .*names.*was 'zeta'"),
    "hybrid-alpha": (loss("Hybrid", 1.5), r"alpha should be a number in \[0, 1\], was 1.5"),
    "lagging": (loss("Lagging", "ELBO"), "objective should be .*was str"),
    "lagging-itself": (
        lambda b: b.inference.Lagging(b.inference.SemiSupervised()),
        r"objective should be .*such as ELBO\(\), was SemiSupervised",
    ),
    "lagging-window": (
        lambda b: b.inference.Lagging(b.inference.ELBO(), window=0),
        "window should be a whole number of at least 1, was 0",
    ),
    "lagging-max-steps": (
        lambda b: b.inference.Lagging(b.inference.ELBO(), max_steps=9, window=10),
        "max_steps should be at least 2 window = 20.*was 9",
    ),
    "lagging-patience": (
        lambda b: b.inference.Lagging(b.inference.ELBO(), patience=0),
        "patience should be a whole number of at least 1, was 0",
    ),
    "lagging-subset": (
        lambda b: b.inference.Lagging(b.inference.ELBO(), subset=1),
        "subset should be a whole number of at least 2, was 1",
    ),
    "adam-betas": (loss("Adam", 0.9), r"betas should be two numbers in \[0, 1\), was 0.9"),
    "adam-betas-1": (loss("Adam", (0.9, 1.0)), r"betas .*\[0, 1\), was \(0.9, 1.0\)"),
    "adam-eps": (loss("Adam", eps=0.0), "eps should be a positive number, was 0.0"),
    "adam-decay": (loss("AdamW", weight_decay=-1.0), "weight_decay .*at least 0, was -1.0"),
    "sgd-momentum": (loss("SGD", 1.0), r"momentum should be .*\[0, 1\), was 1.0"),
    "sgd-nesterov-alone": (loss("SGD", 0.0, True), "momentum should be above 0 .*, was 0"),
    "sgd-decay": (loss("SGD", weight_decay=-1.0), "weight_decay .*at least 0, was -1.0"),
    "lr-start": (loss("ExponentialDecay", 0.0, 1.0, 9), "start should be a positive.*was 0.0"),
    "lr-epochs": (loss("ExponentialDecay", 1.0, 0.1, 1), "epochs .*at least 2, was 1"),
    "lr-schedule": (loss("ExponentialDecay", 1.0, 0.0, 9), "end should be a positive.*was 0.0"),
    "warmup-start": (loss("Warmup", 9, 2.0), r"start should be .*\[0, 1\], was 2.0"),
    "warmup": (loss("Warmup", 0), "epochs should be a whole number of at least 1, was 0"),
}

MODELS: dict[str, Row] = {
    "activation": (new("MLP", 3, (4,), "cubic"), "activation should be one of .*was 'cubic'"),
    "hidden-0": (new("VAE", 6, 2, (4, 0)), "each of hidden should be .*at least 1, was 0"),
    "hidden-number": (new("VAE", 6, 2, 4), "hidden should be .*sizes.*was 4"),
    "hidden-half": (new("VAE", 6, 2, (2.5,)), "each of hidden should be a whole number.*was 2.5"),
    "hidden-number-vhp": (new("VHP", 6, 2, 2, 4), "hidden should be .*sizes.*was 4"),
    "hidden-empty-m2": (new("M2", 6, 3, 2, ()), "hidden should name a layer to join 2 inputs"),
    "activation-list": (new("MLP", 3, (4,), ["tanh"]), r"activation .*one of .*was \['tanh'\]"),
    "dropout-number": (
        new("MLP", 3, (4,), dropout=0.5),
        r"dropout should be two rates in \[0, 1\), was 0.5",
    ),
    "dropout-1": (new("MLP", 3, (4,), dropout=(0.0, 1.0)), r"dropout .*was \(0.0, 1.0\)"),
    "in_dims-half": (new("MLP", 2.5, (4,)), "in_dims should be a whole number.*was 2.5"),
    "in_dims-0": (new("MLP", (3, 0), (4,)), "in_dims should be a whole number.*was 0"),
    "zeta_dim-0": (new("VHP", 6, 2, 0, (4,)), "zeta_dim should be .*at least 1, was 0"),
    "c_dim-0": (new("CVAE", 6, 0, 2, (4,)), "c_dim should be .*at least 1, was 0"),
    "n_categories-1": (
        new("SBN", 6, (3,), (), "tanh", 1),
        "n_categories should be a whole number of at least 2, was 1",
    ),
    "n_categories-1-prior": (new("FactorisedCategorical", 3, 1), "n_categories .*2, was 1"),
    "n_categories-1-net": (new("FactorisedCategoricalNet", 3, 2, 1, (4,)), "n_categ.*2, was 1"),
    "z_dim-0-bernoulli": (new("FactorisedBernoulli", 0), "z_dim should be .*1, was 0"),
    "z_dim-0-categorical": (new("FactorisedCategorical", 0, 3), "z_dim should be .*1, was 0"),
    "out_dim-0-categorical": (
        new("FactorisedCategoricalNet", 3, 0, 3, (4,)),
        "out_dim should be a whole number of at least 1, was 0",
    ),
    "out_dim-0-rank-one": (new("RankOneNormalNet", 6, 0, (4,)), "out_dim .*at least 1, was 0"),
    "z_dims-m1-m2": (
        new("M1M2", 6, 3, (2,), ((4,),)),
        r"z_dims should be the sizes of z_1 and z_2, was \(2,\)",
    ),
    "z_dims-half": (
        new("HierarchicalVAE", 6, (3, 2.5), ((4,), (4,))),
        "each of z_dims should be a whole number of at least 1, was 2.5",
    ),
    "hidden-flat": (
        new("LadderVAE", 6, (3, 2), (4, 4)),
        r"hidden should be a sequence of sizes for each layer, was \(4, 4\)",
    ),
    "encoders": (
        new("DLGM", 6, (2,), ((4,),), encoders=()),
        "encoders should be 1 networks, one per layer, had 0",
    ),
    "network-class": (
        lambda b: b.new("VAE", 6, 2, (4,), decoder=b.models.BernoulliNet),
        "decoder should be a network .(Module|Callable)., was <class .*BernoulliNet'>",
    ),
    "networks-number": (
        new("DLGM", 6, (2,), ((4,),), encoders=5),
        "encoders should be a sequence of networks .(Module|Callable)., was 5",
    ),
    "covariance-list": (new("DLGM", 6, (2,), ((4,),), ["full"]), r"covariance .*\['full'\]"),
    "start-at": (
        lambda b: b.make("vae").decoder.start_at(X[0, 1:]),
        r"mean should have shape \(6,\), had \(5,\)",
    ),
    "conditions": (
        lambda b: b.drawn("sample", "cvae-baseline", 3, Y),
        "c should be 3 conditions, one for each draw, had 24",
    ),
    "conditions-class": (
        lambda b: b.drawn("sample", "cvae-baseline", 24, Y + 1),
        "c should be classes 0 to 2, held 1 to 3",
    ),
    "conditions-n": (
        lambda b: b.drawn("sample", "cvae-baseline", 0, Y),
        "n should be a whole number of at least 1, was 0",
    ),
    "z_dim-0": (new("VAE", 6, 0, (4,)), "z_dim should be .*at least 1, was 0"),
    "out_dim-0": (new("DiagNormalNet", 6, 0, (4,)), "out_dim should be .*at least 1, was 0"),
    "out_dim-0-bernoulli": (new("BernoulliNet", 6, 0, (4,)), "out_dim should .*1, was 0"),
    "z_dim-negative": (new("StandardNormal", -3), "z_dim should be .*at least 1, was -3"),
    "n_classes-1": (new("M2", 6, 1, 2, (4,)), "n_classes should be .*at least 2, was 1"),
    "n_classes-1-prior": (new("UniformCategorical", 1), "n_classes should be .*at least 2, was 1"),
    "n_classes-1-classifier": (new("Classifier", 6, 1, (4,)), "n_classes .*at least 2, was 1"),
    "z_dims-number": (new("HierarchicalVAE", 6, 2, ((4,),)), "z_dims should be .*was 2"),
    "z_dims-empty": (new("LadderVAE", 6, (), ()), r"z_dims should hold .*was \(\)"),
    "hidden-layers": (new("LadderVAE", 6, (3, 2), ((4,),)), "hidden .* each of the 2.*had 1"),
    "covariance": (new("DLGM", 6, (2,), ((4,),), "full"), "covariance should .*'full'"),
    "sample-0": (lambda b: b.drawn("sample", "vae", 0), "n should be .*at least 1, was 0"),
    "sample-half": (lambda b: b.drawn("sample", "vae", 2.5), "n should be a whole.*was 2.5"),
    "reconstruct": (
        lambda b: b.drawn("reconstruct", "vae", X[:, 1:]),
        r"x .*\(n, 6\), had \(24, 5\)",
    ),
    "reconstruct-site": (
        lambda b: b.drawn("reconstruct", "vae", X, site="w"),
        "site should be .*was 'w'",
    ),
    "decode-nothing": (lambda b: b.make("vae").decode({}), "latents should hold .*was empty"),
    "predict": (lambda b: b.make("m2-labelled").predict(X[:, 1:]), r"x .*\(n, 6\), had \(24, 5\)"),
    "load-python": (
        lambda b: b.models.Model.load(__file__),
        r"path should be a whole file .*was .*\(it ends before its header does, after \d+ bytes\)",
    ),
}

AFTER_X_DIM: dict[str, tuple[Any, ...]] = {
    "VAE": (2, (4,)),
    "M1": (2, (4,)),
    "M2": (3, 2, (4,)),
    "M1M2": (3, (3, 2), ((4,), (4,))),
    "HierarchicalVAE": ((2,), ((4,),)),
    "LadderVAE": ((2,), ((4,),)),
    "DLGM": ((2,), ((4,),)),
    "VHP": (2, 2, (4,)),
    "SBN": ((2,),),
    "ConditionalSBN": (2, (2,)),
    "GSNN": (2, 2, (4,)),
    "CVAE": (2, 2, (4,)),
    "Baseline": (2, (4,)),
    "Classifier": (3, (4,)),
}
for _cls, _arguments in AFTER_X_DIM.items():
    for _dim in (0, 2.5, "6"):
        MODELS[f"x_dim-{_dim!r}-{_cls}"] = (
            new(_cls, _dim, *_arguments),
            f"x_dim should be a whole number of at least 1, was {_dim!r}",
        )

FLAGS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "ELBO": ({}, ("analytic_kl",)),
    "Hybrid": ({}, ("analytic_kl",)),
    "SemiSupervised": ({}, ("analytic_kl",)),
    "Relaxed": ({}, ("hard",)),
    "RWS": ({"k": 3}, ("wake_phi", "sleep_phi")),
    "SGD": ({"momentum": 0.9}, ("nesterov",)),
}
for _cls, (_given, _flags) in FLAGS.items():
    for _flag in _flags:
        OBJECTIVES[f"{_flag}-{_cls}"] = (
            loss(_cls, **{**_given, _flag: "False"}),
            f"{_flag} should be True or False, was 'False'",
        )

PARTS: dict[str, tuple[str, ...]] = {
    "VAE": ("prior", "encoder", "decoder"),
    "M1": ("prior", "encoder", "decoder"),
    "M2": ("prior", "classifier", "encoder", "decoder"),
    "M1M2": ("prior", "encoder", "classifier", "encoder_2", "decoder_2", "decoder"),
    "HierarchicalVAE": ("prior", "decoder"),
    "LadderVAE": ("prior", "decoder"),
    "DLGM": ("transforms", "encoders", "decoder"),
    "VHP": ("hyperprior", "prior", "encoder", "zeta_encoder", "decoder"),
    "SBN": ("prior", "decoder"),
    "ConditionalSBN": ("prior", "decoder"),
    "GSNN": ("prior", "decoder", "baseline"),
    "CVAE": ("prior", "encoder", "decoder", "baseline"),
    "Baseline": ("baseline",),
    "Classifier": ("classifier",),
}
for _cls, _parts in PARTS.items():
    for _part in _parts:
        MODELS[f"{_part}-{_cls}"] = (
            new(_cls, 6, *AFTER_X_DIM[_cls], **{_part: "a"}),
            f"{_part} should be a (sequence of )?networks? .(Module|Callable)., was 'a'",
        )

FLAGS_OF_MODELS: dict[str, tuple[tuple[Any, ...], tuple[str, ...]]] = {
    "MLP": ((3, (4,)), ("batch_norm",)),
    "ConcatLinear": (((3, 2), 2), ("bias",)),
    "DiagNormalNet": ((3, 2, (4,)), ("batch_norm",)),
    "BernoulliNet": ((3, 2, (4,)), ("batch_norm",)),
    "CategoricalNet": ((3, 2, (4,)), ("batch_norm",)),
    "RankOneNormalNet": ((3, 2, (4,)), ("batch_norm",)),
    "HierarchicalVAE": ((6, *AFTER_X_DIM["HierarchicalVAE"]), ("skip", "batch_norm")),
    "LadderVAE": ((6, *AFTER_X_DIM["LadderVAE"]), ("batch_norm",)),
    "DLGM": ((6, *AFTER_X_DIM["DLGM"]), ("batch_norm",)),
    "ConditionalSBN": ((6, *AFTER_X_DIM["ConditionalSBN"]), ("recognition",)),
    "GSNN": ((6, *AFTER_X_DIM["GSNN"]), ("decoder_sees_c",)),
    "CVAE": ((6, *AFTER_X_DIM["CVAE"]), ("decoder_sees_c",)),
}
for _cls, (_before, _flags) in FLAGS_OF_MODELS.items():
    for _flag in _flags:
        MODELS[f"{_flag}-{_cls}"] = (
            new(_cls, *_before, **{_flag: "False"}),
            f"{_flag} should be True or False, was 'False'",
        )
