"""The optimizers' state_dict: its own through memory and files, and PyTorch's."""

from __future__ import annotations

import copy
import io
import itertools

import numpy as np
import pytest
from optimizer_cases import (
    CASES,
    DTYPES,
    LOOPS,
    NAMES,
    fresh_params,
    random,
    run_class,
    same_bits,
)

import innerloop as il
from innerloop.reference import OPTIMIZERS


def through_savez(state):
    file = io.BytesIO()
    np.savez(file, **state)
    file.seek(0)
    return np.load(file, allow_pickle=False)


def through_safetensors(state):
    safetensors = pytest.importorskip("safetensors.numpy")
    return safetensors.load(safetensors.save(state))


def state_arrays(optimizer):
    return [a for a in itertools.chain(*optimizer.state.values()) if a is not None]


@pytest.mark.parametrize("carry", [copy.deepcopy, through_savez, through_safetensors])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "options"), LOOPS)
def test_round_trip_goes_on_identically(name, options, dtype, carry):
    made = getattr(il, OPTIMIZERS[name].class_name)
    one = made(fresh_params(dtype), lr=0.02, max_norm=1.5, **options)
    run_class(one, 3)
    saved = carry(one.state_dict())
    two = made([p.copy() for p in one.params])
    run_class(two, 1)  # its own state is there, and replaced
    for p, q in zip(two.params, one.params, strict=True):
        p[...] = q
    kept = {s: [id(a) for a in arrays] for s, arrays in two.state.items()}
    two.load_state_dict(saved)
    assert all([id(a) for a in two.state[s]] == ids for s, ids in kept.items() if s in two.state)
    before, after = one.state_dict(), two.state_dict()
    assert before.keys() == after.keys()
    same_bits(before.values(), [after[k] for k in before])
    run_class(one, 3, first=4)
    run_class(two, 3, first=4)
    same_bits(one.params, two.params)
    same_bits(state_arrays(one), [a for s in one.state for a in two.state[s]])
    assert one.steps == two.steps == 6


def test_state_dict_is_plain_arrays_and_copies():
    optimizer = il.Adam(np.ones(3), lr=0.1, amsgrad=True, max_norm=2)
    saved = optimizer.state_dict()
    assert all(type(v) is np.ndarray and v.dtype.kind in "bif" for v in saved.values())
    assert saved["param_groups.0.lr"] == 0.1 and saved["param_groups.0.amsgrad"].dtype == bool
    assert saved["param_groups.0.params"] == 1 and saved["max_norm"] == 2.0
    np.testing.assert_array_equal(saved["param_groups.0.betas"], [0.9, 0.999])
    optimizer.step(np.ones(3))
    assert saved["step"] == 0 and (saved["state.exp_avgs.0"] == 0).all()
    other = il.Adam(np.ones(3))
    other.load_state_dict(saved)
    assert other.amsgrad is True and other.betas == (0.9, 0.999) and other.max_norm == 2.0
    del saved["max_norm"]
    other.load_state_dict(saved)
    assert other.max_norm is None


def test_groups_of_different_states():
    def made():
        a, b, c = fresh_params()
        groups = [{"params": [a, c], "momentum": 0.9, "lr": 0.5}, {"params": b, "nesterov": False}]
        return il.SGD(groups, weight_decay=0.1)

    one, two = made(), made()
    run_class(one, 3)
    assert one.state["momentum_buffers"][2] is None
    two.load_state_dict(through_savez(one.state_dict()))
    for p, q in zip(two.params, one.params, strict=True):
        p[...] = q
    run_class(one, 2, first=4)
    run_class(two, 2, first=4)
    same_bits(one.params, two.params)
    assert two.param_groups[0]["momentum"] == 0.9 and two.param_groups[1]["momentum"] == 0


def test_a_schedule_is_saved_as_a_number_and_kept_on_loading():
    optimizer = il.SGD(np.ones(3), lr=lambda step: 1.0 / step, max_norm=lambda step: step)
    run_class(optimizer, 3)
    saved = optimizer.state_dict()
    assert saved["param_groups.0.lr"] == 0.25 and saved["max_norm"] == 4
    same = il.SGD(np.ones(3), lr=lambda step: 1.0 / step)
    same.load_state_dict(saved)
    assert callable(same.lr) and same.steps == 3 and same.max_norm == 4
    plain = il.SGD(np.ones(3))
    plain.load_state_dict(saved)
    assert plain.lr == 0.25


def group0(**values):
    return lambda s: s.update({f"param_groups.0.{k}": np.array(v) for k, v in values.items()})


BAD_STATES = {
    "nothing": (lambda s: s.clear(), ValueError),
    "one more": (lambda s: s.update(more=1), ValueError),
    "step -1": (lambda s: s.update(step=-1), ValueError),
    "step 1.5": (lambda s: s.update(step=1.5), TypeError),
    "step lacking": (lambda s: s.pop("step"), ValueError),
    "grad_scale lacking": (lambda s: s.pop("grad_scale"), ValueError),
    "grad_scale 0": (lambda s: s.update(grad_scale=0.0), ValueError),
    "max_norm NaN": (lambda s: s.update(max_norm=np.nan), ValueError),
    "max_norm text": (lambda s: s.update(max_norm="x"), TypeError),
    "hyperparameter lacking": (lambda s: s.pop("param_groups.0.eps"), ValueError),
    "hyperparameter of another": (group0(alpha=1.0), ValueError),
    "a group more": (lambda s: s.update({"param_groups.1.lr": 1.0}), ValueError),
    "an array more": (group0(params=4), ValueError),
    "lr NaN": (group0(lr=np.nan), ValueError),
    "lr text": (group0(lr="x"), TypeError),
    "betas": (group0(betas=(0.9, 1.0)), ValueError),
    "betas three": (group0(betas=(0.9, 0.9, 0.9)), ValueError),
    "l1": (group0(l1=-1.0), ValueError),
    "state lacking": (lambda s: s.pop("state.exp_avg_sqs.1"), ValueError),
    "state of another": (lambda s: s.update({"state.grad_avgs.0": np.zeros(5)}), ValueError),
    "state of no parameter": (lambda s: s.update({"state.exp_avgs.3": np.zeros(5)}), ValueError),
    "state without number": (lambda s: s.update({"state.exp_avgs.": np.zeros(5)}), ValueError),
    "no array": (lambda s: s.update({"state.exp_avgs.1": 1.0}), TypeError),
    "shape": (lambda s: s.update({"state.exp_avgs.1": np.zeros(4, np.float32)}), ValueError),
    "dtype": (lambda s: s.update({"state.exp_avgs.1": np.zeros(5)}), TypeError),
    "PyTorch's, empty": (
        lambda s: (s.clear(), s.update(state={}, param_groups=[])),
        ValueError,
    ),
}


@pytest.mark.parametrize("case", BAD_STATES)
def test_a_bad_state_dict_changes_nothing(case):
    optimizer = il.Adam(fresh_params(), lr=0.1)
    run_class(optimizer, 1)
    other = il.Adam(fresh_params(), lr=0.5)
    run_class(other, 2, first=5)
    bad = other.state_dict()
    spoil, error = BAD_STATES[case]
    spoil(bad)
    before = optimizer.state_dict()
    with pytest.raises(error):
        optimizer.load_state_dict(bad)
    after = optimizer.state_dict()
    assert before.keys() == after.keys()
    same_bits(before.values(), after.values())


def test_what_is_no_state_dict():
    for bad in ([], None, "state", 3):
        with pytest.raises(TypeError, match="state_dict"):
            il.Adam(np.ones(3)).load_state_dict(bad)


# --- PyTorch's ------------------------------------------------------------------------------------

TORCHS = [
    case
    for case in CASES
    if OPTIMIZERS[case.values[0]].class_name != "Lion"
    and not {"bias_correction", "l1", "max_norm", "grad_scale"} & set(case.values[1])
    and len(case.values[1]) <= 1
]


def torch_steps(torch, optimizer, tensors, first, steps):
    for step in range(first, first + steps):
        for i, t in enumerate(tensors):
            t.grad = torch.tensor(random(tuple(t.shape), np.float32, 10 * step + i))
        optimizer.step()


def both(torch, name, options):
    params = fresh_params()[:2]
    tensors = [torch.tensor(p, requires_grad=True) for p in params]
    theirs = getattr(torch.optim, OPTIMIZERS[name].class_name, None)
    if theirs is None:
        pytest.skip("torch has no such optimizer")
    return tensors, theirs(tensors, lr=0.02, **options)


@pytest.mark.parametrize("made", [0, 7])
@pytest.mark.parametrize(("name", "options"), TORCHS)
def test_torchs_state_goes_on_like_torch(torch, name, options, made):
    tensors, theirs = both(torch, name, options)
    torch_steps(torch, theirs, tensors, 1, made)
    ours = getattr(il, OPTIMIZERS[name].class_name)([t.detach().numpy().copy() for t in tensors])
    ours.load_state_dict(theirs.state_dict())
    assert ours.lr == 0.02 and all(getattr(ours, k) == v for k, v in options.items())
    assert ours.steps == (made if name != "sgd" else bool(made and options.get("momentum")))
    run_class(ours, 5, first=made + 1)
    torch_steps(torch, theirs, tensors, made + 1, 5)
    for p, t in zip(ours.params, tensors, strict=True):
        np.testing.assert_allclose(p, t.detach().numpy(), 3e-5, 3e-5)


@pytest.mark.parametrize(("name", "options"), TORCHS)
def test_torch_goes_on_with_our_state(torch, name, options):
    tensors, theirs = both(torch, name, {})
    made = getattr(il, OPTIMIZERS[name].class_name)
    ours = made([t.detach() for t in tensors], lr=0.03, **options)

    def our_steps(first):
        for step in range(first, first + 4):
            shapes = enumerate(tuple(t.shape) for t in tensors)
            ours.step([random(shape, np.float32, 10 * step + i) for i, shape in shapes])

    our_steps(1)
    theirs.load_state_dict(ours.torch_state_dict())
    assert theirs.param_groups[0]["lr"] == 0.03
    copies = [t.detach().clone() for t in tensors]
    torch_steps(torch, theirs, tensors, 5, 4)
    expected = [t.detach().clone() for t in tensors]
    for t, c in zip(tensors, copies, strict=True):
        t.detach().copy_(c)
    our_steps(5)
    for t, e in zip(tensors, expected, strict=True):
        np.testing.assert_allclose(t.detach().numpy(), e.numpy(), 3e-5, 3e-5)


def test_what_torch_has_not_is_not_handed_to_it():
    for options in ({"l1": 0.1}, {"bias_correction": False}):
        with pytest.raises(ValueError, match="l1"):
            il.Adam(np.ones(3), **options).torch_state_dict()
    kept = il.Lion(np.ones(3)).torch_state_dict()
    assert kept["state"] == {} and kept["param_groups"][0]["params"] == [0]


def test_torchs_groups(torch):
    tensors = [torch.tensor(p, requires_grad=True) for p in fresh_params()[:2]]
    theirs = torch.optim.AdamW(
        [{"params": tensors[:1], "lr": torch.tensor(0.5)}, {"params": tensors[1:]}], lr=0.1
    )
    scheduler = torch.optim.lr_scheduler.ConstantLR(theirs, 0.5)  # adds initial_lr
    torch_steps(torch, theirs, tensors, 1, 2)
    scheduler.step()
    a, b = (t.detach().numpy().copy() for t in tensors)
    ours = il.AdamW([{"params": [a]}, {"params": [b]}], l1=0.0, max_norm=1e9)
    ours.load_state_dict(theirs.state_dict())
    assert [g["lr"] for g in ours.param_groups] == [0.25, 0.05] and ours.max_norm == 1e9
    run_class(ours, 3, first=3)
    torch_steps(torch, theirs, tensors, 3, 3)
    for p, t in zip(ours.params, tensors, strict=True):
        np.testing.assert_allclose(p, t.detach().numpy(), 3e-5, 3e-5)


def uneven(state):
    state["state"][1]["step"] = state["state"][1]["step"] + 1


BAD_TORCH_STATES = {
    "group": lambda s: s["param_groups"].append({"params": [], **s["param_groups"][0]}),
    "params": lambda s: s["param_groups"][0]["params"].append(2),
    "uneven steps": uneven,
    "a parameter without state": lambda s: s["state"].pop(1),
    "half a step": lambda s: [kept.update(step=2.5) for kept in s["state"].values()],
    "state lacking": lambda s: s["state"][1].pop("exp_avg"),
    "state unknown": lambda s: s["state"][0].update(momentum_buffer=s["state"][0]["exp_avg"]),
    "shape": lambda s: s["state"][0].update(exp_avg=s["state"][1]["exp_avg"]),
    "lr": lambda s: s["param_groups"][0].update(lr=-1.0),
    "eps lacking": lambda s: s["param_groups"][0].pop("eps"),
    "AdamW": lambda s: s["param_groups"][0].update(decoupled_weight_decay=True),
}


@pytest.mark.parametrize("case", BAD_TORCH_STATES)
def test_a_bad_torch_state_changes_nothing(torch, case):
    tensors, theirs = both(torch, "adam", {})
    torch_steps(torch, theirs, tensors, 1, 2)
    bad = copy.deepcopy(theirs.state_dict())
    BAD_TORCH_STATES[case](bad)
    ours = il.Adam(fresh_params()[:2])
    run_class(ours, 1)
    before = ours.state_dict()
    with pytest.raises(ValueError):
        ours.load_state_dict(bad)
    same_bits(before.values(), ours.state_dict().values())


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("adam", "adamw")])
def test_another_optimizers_torch_state_is_refused(torch, name):
    tensors, theirs = both(torch, "adam", {})
    torch_steps(torch, theirs, tensors, 1, 2)
    ours = getattr(il, OPTIMIZERS[name].class_name)(fresh_params()[:2])
    with pytest.raises(ValueError):
        ours.load_state_dict(theirs.state_dict())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"state": [], "param_groups": []}, "state must be a dict"),
        ({"state": {0: 5}, "param_groups": []}, "state must be a dict of dicts"),
        ({"state": {}, "param_groups": None}, "param_groups must be a list"),
        ({"state": {}, "param_groups": [1]}, "param_groups must be a list of dicts"),
        ({"state": {}, "param_groups": [{"lr": 1.0}]}, "param_groups must each hold"),
    ],
)
def test_what_is_no_state_of_pytorchs(wrong, words):
    with pytest.raises(TypeError, match=words):
        il.Adam(np.ones(3, "f4")).load_state_dict(wrong)


@pytest.mark.parametrize("step", [float("nan"), 1.5, "a"])
def test_steps_of_pytorchs_state_are_whole(step):
    torch = pytest.importorskip("torch")
    param = torch.ones(3, requires_grad=True)
    other = torch.optim.Adam([param])
    param.grad = torch.ones(3)
    other.step()
    state = other.state_dict()
    state["state"][0]["step"] = step
    with pytest.raises(ValueError, match="step must be an integer, got"):
        il.Adam(np.ones(3, "f4")).load_state_dict(state)


def test_step_functions_take_schedules():
    a, b, grad = np.ones(3), np.ones(3), np.ones(3)
    il.sgd_step(a, grad, step=3, lr=il.schedules.inverse_time(0.1, 0.5))
    il.sgd_step(b, grad, step=3, lr=il.schedules.inverse_time(0.1, 0.5)(3))
    np.testing.assert_array_equal(a, b)
