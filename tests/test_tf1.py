"""The classic layer against the NumPy reference, in every kind of graph that TensorFlow knows."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from bn_tutorial.batch_norm import batch_norm_forward, batch_norm_inference
from bn_tutorial.moving_average import ExponentialMovingAverage
from bn_tutorial.tf1 import Edge, batch_norm_layer, edges, run

v1 = tf.compat.v1

SHAPES = [(7, 3), (5, 4, 3), (4, 3, 2, 3), (2, 3, 2, 2, 3)]


def choose(control_flow_v2, resource_variables):
    (v1.enable_control_flow_v2 if control_flow_v2 else v1.disable_control_flow_v2)()
    (v1.enable_resource_variables if resource_variables else v1.disable_resource_variables)()


@pytest.fixture(
    params=[
        pytest.param((flow, resource), id=f"{'v2' if flow else 'v1'} {variables}")
        for flow in (False, True)
        for resource, variables in ((False, "reference"), (True, "resource"))
    ]
)
def kind(request):
    """Each kind of control flow with each kind of variable."""
    before = v1.control_flow_v2_enabled(), v1.resource_variables_enabled()
    choose(*request.param)
    yield
    choose(*before)


def build(*inner, dtype=tf.float32, **kwargs):
    """A layer in a graph of its own, whose batch dimension is unknown; gamma and beta random."""
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(dtype, [None, *inner])
        train_phase = v1.placeholder(tf.bool, [])
        y = batch_norm_layer(x, train_phase, "bn", **kwargs)
        beta, gamma = v1.trainable_variables()
        moving_mean, moving_variance = (
            variable for variable in v1.global_variables() if variable not in (beta, gamma)
        )
        upstream = v1.placeholder(y.dtype, [None, *inner])
        gradients = tf.gradients(y, [x, gamma, beta], upstream)
        rng = np.random.default_rng(0)
        values = {name: rng.normal(0, 2, inner[-1]) for name in ("gamma", "beta")}
        prepare = [gamma.assign(values["gamma"]), beta.assign(values["beta"])]
        saver = v1.train.Saver()
        initialize = v1.global_variables_initializer()
    session = v1.Session(graph=graph)
    session.run(initialize)
    session.run(prepare)

    def runner(training):
        def run_layer(data, fetch=y, gradient=None):
            gradient = np.zeros_like(data) if gradient is None else gradient
            return session.run(fetch, {x: data, train_phase: training, upstream: gradient})

        return run_layer

    return SimpleNamespace(
        train=runner(True),
        serve=runner(False),
        averages=lambda: session.run([moving_mean, moving_variance]),
        y=y,
        gradients=gradients,
        gamma=session.run(gamma),
        beta=session.run(beta),
        graph=graph,
        session=session,
        saver=saver,
    )


def batches(count, shape, seed=1):
    return np.random.default_rng(seed).normal(2, 1.5, (count, *shape))


def close(dtype):
    """What a float of this dtype may lose in a sum of 48 numbers of order 1, and in 1 / sqrt."""
    bound = 100 * float(np.finfo(dtype).eps)
    return {"rtol": bound, "atol": bound}


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"rank {len(shape)}")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_each_training_step_and_each_evaluation_equal_the_reference(shape, dtype):
    layer = build(*shape[1:], dtype=dtype, decay=0.7, epsilon=0.01)
    reference = ExponentialMovingAverage(0.7)
    for x in batches(4, shape).astype(dtype):
        expected, cache = batch_norm_forward(x, layer.gamma, layer.beta, epsilon=0.01)
        y = layer.train(x)
        assert y.dtype == dtype
        np.testing.assert_allclose(y, expected, **close(dtype))

        averages = reference.apply(
            {"mean": cache.mean.astype(dtype), "variance": cache.variance.astype(dtype)}
        )
        moving = layer.averages()
        np.testing.assert_allclose(moving, list(averages.values()), **close(dtype))

        new = batches(1, shape, seed=2)[0][:3].astype(dtype)  # another batch size, too
        expected = batch_norm_inference(new, layer.gamma, layer.beta, *moving, epsilon=0.01)
        np.testing.assert_allclose(layer.serve(new), expected, **close(dtype))


@pytest.mark.usefixtures("kind")
def test_averages_move_once_a_training_run_and_never_in_evaluation():
    layer = build(3, decay=0.5)
    x = batches(1, (8, 3))[0]
    mean, variance = x.mean(axis=0), x.var(axis=0)
    for step in range(1, 4):
        # However much of the layer a run asks for.
        layer.train(x, [layer.y, layer.y, layer.gradients], gradient=x)
        moved = layer.averages()
        expected = np.multiply(1 - 0.5**step, [mean, variance])
        np.testing.assert_allclose(moved, expected, **close(np.float32))
        layer.serve(100 * x, [layer.y, layer.gradients], gradient=x)
        np.testing.assert_array_equal(layer.averages(), moved)


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[2]], ids=str)
def test_gradients_in_training_equal_eager_tensorflows(shape):
    layer = build(*shape[1:], dtype=tf.float64, epsilon=0.01)
    x, upstream = batches(2, shape)
    with tf.GradientTape() as tape:
        inputs = [tf.constant(value) for value in (x, layer.gamma, layer.beta)]
        tape.watch(inputs)
        data, gamma, beta = inputs
        axes = list(range(len(shape) - 1))
        centred = data - tf.reduce_mean(data, axes)
        y = gamma * centred / tf.sqrt(tf.reduce_mean(centred**2, axes) + 0.01) + beta
    expected = tape.gradient(y, inputs, tf.constant(upstream))
    for ours, theirs in zip(
        layer.train(x, layer.gradients, gradient=upstream), expected, strict=True
    ):
        assert np.abs(theirs).max() > 0.1  # there is a gradient to compare
        np.testing.assert_allclose(ours, theirs, **close(np.float64))


@pytest.mark.usefixtures("kind")
def test_gradients_in_evaluation_are_those_of_an_affine_map():
    layer = build(3, dtype=tf.float64, epsilon=0.01)
    x, upstream = batches(2, (6, 3))
    layer.train(x)
    mean, variance = layer.averages()
    deviation = np.sqrt(variance + 0.01)
    dx, dgamma, dbeta = layer.serve(x, layer.gradients, gradient=upstream)
    np.testing.assert_allclose(dx, upstream * layer.gamma / deviation, **close(np.float64))
    x_hat = (x - mean) / deviation
    np.testing.assert_allclose(dgamma, np.sum(upstream * x_hat, axis=0), **close(np.float64))
    np.testing.assert_allclose(dbeta, upstream.sum(axis=0), **close(np.float64))


@pytest.mark.usefixtures("kind")
def test_a_saved_layer_serves_what_it_served_before(tmp_path):
    trained = build(3)
    x, new = batches(2, (6, 3))
    for _ in range(3):
        trained.train(x)
    with trained.graph.as_default():
        path = trained.saver.save(trained.session, str(tmp_path / "layer"))
    restored = build(3)
    assert not np.array_equal(restored.serve(new), trained.serve(new))
    with restored.graph.as_default():
        restored.saver.restore(restored.session, path)
    np.testing.assert_array_equal(restored.serve(new), trained.serve(new))
    np.testing.assert_array_equal(restored.averages(), trained.averages())


@pytest.mark.usefixtures("kind")
def test_a_layer_built_twice_has_variables_and_averages_of_its_own():
    with tf.Graph().as_default():
        x = tf.constant([[1.0], [3.0]])
        _, second = (batch_norm_layer(x, True, "bn") for _ in range(2))
        variables = v1.global_variables()
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            session.run([variable.assign([7.0]) for variable in variables])
            session.run(second)
            changed = [session.run(variable).item() != 7 for variable in variables]
    assert len({variable.name for variable in variables}) == 8
    # beta, gamma and two averages each: only the second layer's averages have moved.
    assert changed == [False] * 6 + [True] * 2


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("train_phase", [True, False])
def test_a_python_bool_fixes_the_mode(train_phase):
    with tf.Graph().as_default():
        y = batch_norm_layer(tf.constant([[1.0], [3.0]]), train_phase, "bn")
        with tf.control_dependencies([y]):
            averages = [variable.read_value() for variable in v1.global_variables()[2:]]
        (y, averages), *_ = run([y, averages])
    if train_phase:
        expected, moved = np.divide([-1, 1], math.sqrt(1.001)), [1, 0.5]
    else:
        expected, moved = np.divide([1, 3], math.sqrt(0.001)), [0, 0]
    np.testing.assert_allclose(y.ravel(), expected, rtol=1e-6)
    assert [average.item() for average in averages] == moved


@pytest.mark.usefixtures("kind")
def test_by_hand_with_the_articles_decay_and_epsilon():
    layer = build(1)
    gamma, beta = layer.gamma.item(), layer.beta.item()
    x = [[1.0], [3.0]]
    untrained = np.array([1, 3]) / math.sqrt(0.001)  # the averages begin at 0: 31.6 times too large
    np.testing.assert_allclose(layer.serve(x).ravel(), gamma * untrained + beta, rtol=1e-6)
    normalized = np.array([-1, 1]) / math.sqrt(1.001)
    trained = layer.train(x).ravel()
    np.testing.assert_allclose(trained, gamma * normalized + beta, **close(np.float32))
    assert [average.item() for average in layer.averages()] == [1, 0.5]


@pytest.mark.usefixtures("kind")
def test_a_new_layer_normalizes_only():
    with tf.Graph().as_default():
        batch_norm_layer(v1.placeholder(tf.float32, [None, 2]), True, "bn")
        names = [variable.op.name for variable in v1.trainable_variables()]
        beta, gamma = run(v1.trainable_variables())[0]
        assert all(variable.op.name.startswith("bn/") for variable in v1.global_variables())
    assert names == ["bn/beta", "bn/gamma"]
    assert (beta.tolist(), gamma.tolist()) == ([0, 0], [1, 1])


@pytest.mark.usefixtures("kind")
def test_float16_is_computed_in_float32():
    layer = build(3, dtype=tf.float16)
    assert layer.y.dtype == tf.float16
    # A variance of 90000 and a sum of squares of 6e7: float16 ends at 65504.
    x = (300 * batches(1, (64, 3))[0] / 1.5).astype(np.float16)
    y, cache = batch_norm_forward(x, layer.gamma, layer.beta)
    np.testing.assert_array_max_ulp(layer.train(x), y, maxulp=1)
    mean, variance = layer.averages()
    assert mean.dtype == variance.dtype == layer.gamma.dtype == np.float32
    np.testing.assert_allclose(mean, cache.mean / 2, rtol=1e-5)
    np.testing.assert_allclose(variance, cache.variance / 2, rtol=1e-5)
    served = batch_norm_inference(x, layer.gamma, layer.beta, mean, variance)
    np.testing.assert_array_max_ulp(layer.serve(x), served, maxulp=1)


def test_the_static_shape_is_kept_and_more_than_the_batch_may_be_unknown():
    with tf.Graph().as_default():
        x = v1.placeholder(tf.float32, [None, None, 5, 2])
        y = batch_norm_layer(x, True, "bn")
        assert y.shape.as_list() == [None, None, 5, 2]
        data = batches(1, (2, 3, 5, 2))[0]
        expected, _ = batch_norm_forward(data, np.ones(2), np.zeros(2))
        np.testing.assert_allclose(run(y, 1, {x: data})[0], expected, **close(np.float32))


@pytest.mark.usefixtures("kind")
def test_a_constant_tensor_leaves_the_mode_open():
    with tf.Graph().as_default():
        train_phase = tf.constant(True)
        y = batch_norm_layer(tf.constant([[1.0], [3.0]]), train_phase, "bn")
        trained, served = (run(y, 1, {train_phase: mode})[0] for mode in (True, False))
    np.testing.assert_allclose(trained.ravel(), np.divide([-1, 1], math.sqrt(1.001)), rtol=1e-6)
    np.testing.assert_allclose(served.ravel(), np.divide([1, 3], math.sqrt(0.001)), rtol=1e-6)


# Freezing


def freeze(session, y):
    """The graph of ``y`` with its variables as constants."""
    definition = session.graph.as_graph_def()
    return v1.graph_util.convert_variables_to_constants(session, definition, [y.op.name])


def run_frozen(definition, feeds, fetch):
    with tf.Graph().as_default(), v1.Session() as session:
        tf.import_graph_def(definition, name="")
        return session.run(fetch, feeds)


@pytest.mark.usefixtures("kind")
def test_a_layer_that_serves_only_restores_a_checkpoint_and_freezes(tmp_path):
    trained = build(3)
    x, new = batches(2, (6, 3)).astype(np.float32)
    for _ in range(3):
        trained.train(x)
    expected = trained.serve(new)
    with trained.graph.as_default():
        path = trained.saver.save(trained.session, str(tmp_path / "layer"))

    with tf.Graph().as_default(), v1.Session() as session:
        inputs = v1.placeholder(tf.float32, [None, 3], name="inputs")
        y = batch_norm_layer(inputs, False, "bn")
        v1.train.Saver().restore(session, path)
        np.testing.assert_array_equal(session.run(y, {inputs: new}), expected)
        frozen = freeze(session, y)
    assert not {node.op for node in frozen.node} & {"VariableV2", "VarHandleOp", "If", "Switch"}
    np.testing.assert_array_equal(run_frozen(frozen, {"inputs:0": new}, y.name), expected)


@pytest.mark.usefixtures("kind")
def test_a_layer_that_can_train_does_not_freeze():
    with tf.Graph().as_default(), v1.Session() as session:
        inputs = v1.placeholder(tf.float32, [None, 3], name="inputs")
        train_phase = v1.placeholder(tf.bool, [], name="train_phase")
        y = batch_norm_layer(inputs, train_phase, "bn")
        session.run(v1.global_variables_initializer())
        frozen = freeze(session, y)
    # TensorFlow itself says so: nothing can be assigned to a constant.
    feeds = {"inputs:0": np.ones((2, 3), np.float32), "train_phase:0": False}
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=r"expected .*re[sf]"):
        run_frozen(frozen, feeds, y.name)


@pytest.mark.usefixtures("kind")
def test_an_average_is_none_until_the_branch_that_updates_it_is_built():
    """Why the branches of the layer stand in the order in which they do."""
    with tf.Graph().as_default():
        value, serve = tf.constant([1.0]), v1.placeholder(tf.bool, [])
        ema = tf.train.ExponentialMovingAverage(0.5)
        assert ema.average(value) is None

        def update():
            with tf.control_dependencies([ema.apply([value])]):
                return tf.identity(value)

        with pytest.raises(ValueError, match="None values not supported"):
            tf.cond(serve, lambda: tf.convert_to_tensor(ema.average(value)), update)


# Bad input


@pytest.mark.parametrize(
    ("dtype", "shape", "error", "message"),
    [
        (tf.float32, None, ValueError, "known rank of 2 or more, got shape <unknown>"),
        (tf.float32, [], ValueError, r"known rank of 2 or more, got shape \(\)"),
        (tf.float32, [3], ValueError, r"known rank of 2 or more, got shape \(3,\)"),
        (tf.float32, [3, None], ValueError, r"known last dimension, got shape \(3, None\)"),
        (tf.int32, [None, 3], TypeError, "float16, float32 or float64 tensor, got int32"),
        (tf.bfloat16, [None, 3], TypeError, "float16, float32 or float64 tensor, got bfloat16"),
        (tf.complex64, [None, 3], TypeError, "tensor, got complex64"),
        (tf.string, [None, 3], TypeError, "tensor, got string"),
        (tf.bool, [None, 3], TypeError, "tensor, got bool"),
    ],
)
def test_a_bad_tensor_raises_and_adds_no_variable(dtype, shape, error, message):
    with tf.Graph().as_default():
        with pytest.raises(error, match=message):
            batch_norm_layer(v1.placeholder(dtype, shape), True, "bn")
        assert v1.global_variables() == []


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [({"decay": bad}, rf"decay must lie in \[0, 1\].*got {bad}") for bad in (-0.1, 1.1, np.nan)]
    + [
        ({"epsilon": bad}, f"finite number above 0, .* got {bad}")
        for bad in (0, -1e-3, np.nan, np.inf)
    ],
)
def test_a_bad_number_raises(kwargs, message):
    with tf.Graph().as_default(), pytest.raises(ValueError, match=message):
        batch_norm_layer(v1.placeholder(tf.float32, [None, 3]), True, "bn", **kwargs)


def test_a_train_phase_that_is_no_boolean_raises():
    with tf.Graph().as_default():
        x = v1.placeholder(tf.float32, [None, 3])
        for train_phase, dtype in (0.5, "float32"), (1, "int32"), (x, "float32"), ("yes", "string"):
            with pytest.raises(TypeError, match=f"train_phase must be boolean, got {dtype}"):
                batch_norm_layer(x, train_phase, "bn")


def test_a_train_phase_that_is_no_scalar_raises():
    with tf.Graph().as_default():
        x = v1.placeholder(tf.float32, [None, 3])
        for train_phase, shape in (
            ([True], r"\(1,\)"),
            (v1.placeholder(tf.bool, [None, 2]), r"\(None, 2\)"),
        ):
            with pytest.raises(ValueError, match=f"must be a scalar, got shape {shape}"):
                batch_norm_layer(x, train_phase, "bn")


@pytest.mark.parametrize("train_phase", [True, False])
@pytest.mark.parametrize(
    "call",
    [
        lambda layer: layer(),
        lambda layer: tf.function(layer)(),
        lambda layer: v1.wrap_function(layer, []),
        lambda layer: tf.data.Dataset.range(1).map(lambda _: layer()),
    ],
    ids=["eager", "tf.function", "wrap_function", "Dataset.map"],
)
def test_eager_mode_and_functions_raise(call, train_phase):
    match = r"use it in `with tf\.Graph\(\)\.as_default\(\):`, and outside of any tf\.function"
    with pytest.raises(RuntimeError, match=match):
        call(lambda: batch_norm_layer(tf.ones([2, 3]), train_phase, "bn"))


def test_a_function_in_a_graph_raises():
    with tf.Graph().as_default(), pytest.raises(RuntimeError, match=r"outside of any tf\.function"):
        tf.function(lambda: batch_norm_layer(tf.ones([2, 3]), True, "bn"))()


# Running graphs


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize(
    ("make", "printed"),
    [
        (lambda w, x: w * x, [4, 6, 8]),
        (lambda w, x: w, [1, 1, 1]),
        (lambda w, x: tf.identity(w), [2, 3, 4]),
        (lambda w, x: w.read_value(), [2, 3, 4]),
    ],
    ids=["w*x", "w", "identity", "read_value"],
)
def test_the_articles_three_runs(make, printed):
    with tf.Graph().as_default():
        w, x = v1.Variable(1.0), v1.Variable(2.0)
        update = v1.assign_add(w, 1.0)
        with tf.control_dependencies([update]):
            result = make(w, x)
        assert run(result, times=3) == printed
        assert run(result, times=3) == printed  # each call starts afresh


def test_run_takes_structures_and_feeds():
    with tf.Graph().as_default():
        x = v1.placeholder(tf.float32, [])
        outputs = run({"double": 2 * x, "pair": [x, x + 1]}, 2, {x: 3.0})
        assert outputs == [{"double": 6, "pair": [3, 4]}] * 2
        assert run(x, times=0) == []


def test_run_initializes_local_variables_and_tables():
    with tf.Graph().as_default():
        correct, update = v1.metrics.accuracy([1, 1, 0, 0], [1, 0, 0, 0])
        pairs = tf.lookup.KeyValueTensorInitializer(["a", "b"], [1, 2])
        found = tf.lookup.StaticHashTable(pairs, default_value=0).lookup(tf.constant(["b", "c"]))
        [(updated, numbers)] = run([update, found])
        assert updated == 0.75
        assert numbers.tolist() == [2, 0]
        assert run(correct) == [0]


@pytest.mark.usefixtures("kind")
def test_run_adds_one_operation_which_waits_for_the_initializers():
    with tf.Graph().as_default() as graph:
        w = v1.Variable(1.0, name="w")
        before = len(graph.get_operations())
        assert run(w) == [1]
        [added] = graph.get_operations()[before:]
    assert added.control_inputs == [w.initializer]


def test_edges_tell_data_from_control():
    with tf.Graph().as_default() as graph:
        a = tf.constant(1.0, name="a")
        b = tf.negative(a, name="b")
        with tf.control_dependencies([b]):
            c = tf.add(a, a, name="c")
            tf.multiply(c, b, name="d")  # data from b already make it wait
        with tf.control_dependencies([c, b]):  # TensorFlow keeps these in no order
            tf.no_op(name="e")
    assert edges(graph) == [
        Edge("a", "b", False),
        Edge("a", "c", False),
        Edge("a", "c", False),
        Edge("b", "c", True),
        Edge("c", "d", False),
        Edge("b", "d", False),
        Edge("b", "e", True),
        Edge("c", "e", True),
    ]
    assert edges(tf.Graph()) == []
