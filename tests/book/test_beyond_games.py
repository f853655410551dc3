"""The chapters on games: exact answers, rules, targets, and records that belong to plans."""

import json
import random
import sys
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "book"))
from beyond import breakout, connect4, dqn, plots, record_games, selfplay, tower
from beyond.breakout import SIZE, Breakout
from figures import Connect4

from wnlib import Norm


def grid(mine: int, mask: int) -> list[list[int]]:
    """Rows from below: 1 mine, -1 theirs, 0 empty; read cell by cell."""
    cells = [[7 * c + r for c in range(7)] for r in range(6)]
    return [[(mask >> b & 1) * (2 * (mine >> b & 1) - 1) for b in row] for row in cells]


def has_four(board: list[list[int]], who: int) -> bool:
    return any(
        all(
            0 <= r + i * dr < 6 and 0 <= c + i * dc < 7 and board[r + i * dr][c + i * dc] == who
            for i in range(4)
        )
        for r in range(6)
        for c in range(7)
        for dr, dc in ((0, 1), (1, 0), (1, 1), (1, -1))
    )


def brute(board: list[list[int]], who: int) -> int:
    """Minimax by hand, on rows and columns."""
    best = None
    for c in range(7):
        r = next((r for r in range(6) if board[r][c] == 0), None)
        if r is None:
            continue
        board[r][c] = who
        worth = 1 if has_four(board, who) else -brute(board, -who)
        board[r][c] = 0
        best = worth if best is None else max(best, worth)
        if best == 1:
            break
    return 0 if best is None else best


def test_the_solver_agrees_with_brute_force():
    draw, seen = random.Random(1), []
    while len(seen) < 40:
        mine = mask = 0
        for _ in range(draw.randrange(34, 41)):
            mine, mask = connect4.play(mine, mask, draw.choice(connect4.legal(mask)))
            if connect4.wins(mask ^ mine):
                break
        else:
            seen.append(connect4.value(mine, mask, {}))
            assert seen[-1] == brute(grid(mine, mask), 1), connect4.shown(mine, mask)
    assert set(seen) == {-1, 0, 1}


def test_wins_and_threats_are_those_of_the_cells():
    draw = random.Random(2)
    for _ in range(200):
        mask = sum(1 << 7 * c + r for c in range(7) for r in range(draw.randrange(7)))
        mine = mask & draw.getrandbits(49)
        board = grid(mine, mask)
        assert connect4.wins(mine) == has_four(board, 1)
        for r in range(6):
            for c in range(7):
                if board[r][c] == 0 and not connect4.wins(mine):
                    board[r][c] = 1
                    bit = connect4.threats(mine, mask) >> 7 * c + r & 1
                    assert bool(bit) == has_four(board, 1)
                    board[r][c] = 0


def test_shipped_positions_have_the_solvers_answers(tmp_path):
    data = connect4.load()
    assert connect4.PATH.stat().st_size < 500_000
    assert len({*zip(data.mine.tolist(), data.mask.tolist(), strict=True)}) == len(data.value)
    # The first of those with most stones: they take the solver no time.
    full = np.argsort([-int(m).bit_count() for m in data.mask.tolist()], kind="stable")[:30]
    for i in full.tolist():
        values = connect4.move_values(int(data.mine[i]), int(data.mask[i]), {})
        assert max(values.values()) == data.value[i]
        good = [c for c, worth in values.items() if worth == max(values.values())]
        assert data.good[i].nonzero().flatten().tolist() == good
        assert data.legal[i].nonzero().flatten().tolist() == list(values)
    damaged = tmp_path / "positions.npz"
    damaged.write_bytes(connect4.PATH.read_bytes()[:-1])
    with pytest.raises(ValueError, match="not the book's"):
        connect4.load(damaged)


def test_planes_show_the_board_as_it_is_printed():
    mine, mask = connect4.play(*connect4.play(0, 0, 3), 0)  # x in 3, then o in 0
    [[ours, theirs]] = connect4.planes(np.array([mine]), np.array([mask]))
    assert ours.nonzero().tolist() == [[5, 3]]
    assert theirs.nonzero().tolist() == [[5, 0]]
    assert connect4.shown(mine, mask).splitlines()[5] == "o . . x . . ."


@pytest.mark.parametrize("norm", Norm)
def test_a_tower_in_every_configuration(norm):
    boards = connect4.load().boards[:20]
    model = tower.fresh(norm, "he", 0, boards)
    logits, value = model(boards)
    assert (logits.shape, value.shape) == ((20, 7), (20,))
    assert value.abs().max() < 1
    kinds = [type(m).__name__ for m in model.modules()]
    assert kinds.count("BatchNorm2d") == 6 * (norm is Norm.BN)
    assert kinds.count("MeanOnlyBatchNorm") == 6 * norm.mean_only
    assert kinds.count("WeightNorm") == 9 * norm.weight_normalized


@pytest.mark.parametrize("norm", ["none", "wn"])
def test_branches_and_heads_start_small(norm):
    boards = connect4.load().boards[:200]
    model = tower.fresh(norm, "small", 0, boards)
    logits, _ = model(boards)
    assert logits.std(0, correction=0).tolist() == pytest.approx([0.1] * 7, rel=0.01)


def test_the_search_finds_a_win():
    mine = mask = 0
    for column in (3, 0, 3, 0, 3, 0):  # both have three in a column
        mine, mask = connect4.play(mine, mask, column)
    blind = selfplay.Blind()  # what a search finds with it, the search has found
    assert selfplay.search(blind, [(0, 0), (mine, mask)], 60).argmax(1)[1] == 3
    assert selfplay.match(blind, blind, [(mine, mask)] * 2, 60) == [1, 1]


def test_games_are_played_by_the_rules():
    rows = selfplay.self_play(selfplay.Blind(), games=3, visits=8, seed=0)
    games = []
    for row in rows:  # each game's rows from its end to its beginning
        if not games or games[-1][0][0] == (0, 0):
            games.append([])
        games[-1].insert(0, row)
    assert [game[0][0] for game in games] == [(0, 0)] * 3
    for game in games:
        worths = [worth for _, _, worth in game]
        assert all(a == -b for a, b in pairwise(worths))
        for (before, policy, _), (after, _, _) in pairwise(game):
            tried = policy.nonzero()[:, 0].tolist()
            assert after in [connect4.play(*before, column) for column in tried]
        position, _, worth = game[-1]
        ends = [selfplay.over(connect4.play(*position, c)) for c in connect4.legal(position[1])]
        assert -worth in ends
    assert all(policy.sum() == pytest.approx(1) for _, policy, _ in rows)


def test_a_search_of_many_is_that_of_each():
    """Side by side or alone: a network without chance judges a position as it is."""
    model = tower.fresh("none", "he", 0, connect4.load().boards[:200]).eval()
    positions = selfplay.openings()[:5]
    together = selfplay.search(model, positions, 30)
    alone = torch.cat([selfplay.search(model, [p], 30) for p in positions])
    assert (together - alone).abs().max() <= 2  # sums of fp32 differ with the batch
    assert together.sum(1).tolist() == [30] * 5


def test_a_match_says_who_won():
    """To move against three in the middle of the lowest row is to lose."""
    mine = mask = 0
    for column in (2, 2, 3, 3, 4):
        mine, mask = connect4.play(mine, mask, column)
    blind = selfplay.Blind()
    assert selfplay.match(blind, blind, [(mine, mask)], 60) == [0]
    boards = connect4.load().boards[:200]
    one, other = (tower.fresh("none", "he", seed, boards) for seed in (0, 1))
    starts = selfplay.openings()
    won = selfplay.match(one, other, starts, 4)
    won += [1 - points for points in selfplay.match(other, one, starts, 4)]
    assert selfplay.score(one, other, 4) == pytest.approx(np.mean(won))
    assert np.mean(won) != 0.5


def test_a_match_is_fair():
    """Of one player against itself, whatever it is, each side gets half."""
    model = tower.fresh("bn", "he", 0, connect4.load().boards[:200])
    assert len(set(selfplay.openings())) == 49
    assert selfplay.score(model, model, 4) == 0.5


@pytest.mark.parametrize("norm", ["wn", "bn"])
def test_a_recorded_player_is_the_network_that_was_trained(norm, tmp_path):
    """But for 16 bits: it scores as that did."""
    plan = {"norm": norm, "start": "he", "rate": 0.006, "seed": 0, "visits": 4}
    plan |= {"rounds": 5, "games": 4, "updates": 10}
    [row] = record_games.play_itself(plan, tmp_path)
    about = {"experiment": "selfplay", **plan}
    record_games.write(tmp_path, about, [row])
    model = record_games.player(tmp_path).eval()
    assert row["games"] == 20
    again = selfplay.score(model, selfplay.Blind(), plan["visits"])
    assert again == pytest.approx(row["score"], abs=0.06)


def placed(**values: int) -> Breakout:
    """One game without chance, its ball and paddle where they are put."""
    game = Breakout(1, seed=0, sticky=0)
    for name, value in values.items():
        getattr(game, name)[:] = value
    return game


def test_the_ball_breaks_a_brick_and_comes_back():
    game = placed(row=4, column=3, down=-1, right=1)
    reward, done = game.step(np.array([0]))
    assert (reward.tolist(), done.tolist()) == ([1], [False])
    assert not game.bricks[0, 3, 4]
    assert game.bricks.sum() == 3 * SIZE - 1
    assert (game.row[0], game.column[0], game.down[0]) == (4, 4, 1)


def test_walls_paddle_and_end():
    game = placed(row=6, column=0, down=1, right=-1)
    game.step(np.array([0]))
    assert (game.row[0], game.column[0], game.right[0]) == (7, 0, 1)

    game = placed(row=8, column=2, down=1, right=1, paddle=4)
    _, done = game.step(np.array([1]))  # the paddle comes to column 3
    assert (done[0], game.row[0], game.down[0]) == (False, 8, -1)

    game = placed(row=8, column=2, down=1, right=1, paddle=5)
    game.bricks[:] = False
    _, done = game.step(np.array([1]))  # it comes too late
    assert done[0]
    assert game.bricks.sum() == 3 * SIZE, "the next game has no new wall"

    game = placed(paddle=0)
    game.step(np.array([1]))
    assert game.paddle[0] == 0


def test_a_sticky_action_is_the_last_one():
    game = Breakout(1, seed=0, sticky=1)
    game.step(np.array([2]))
    assert game.paddle[0] == SIZE // 2


def test_q_targets_in_closed_form():
    """Two states, one step a game: Q(s, a) is the reward; else r + γ / (1 − γ)."""
    following = torch.tensor([[1.0, 3.0, 2.0], [5.0, 4.0, 0.0]])
    found = dqn.targets(torch.tensor([1.0, 1.0]), torch.tensor([False, True]), following)
    assert found.tolist() == pytest.approx([1 + 0.99 * 3, 1])
    q = torch.zeros(1, 1)
    for _ in range(2000):  # a game without end that pays 1 each frame
        q[0] = dqn.targets(torch.ones(1), torch.zeros(1, dtype=torch.bool), q)
    assert q.item() == pytest.approx(1 / (1 - dqn.GAMMA), rel=1e-3)


def test_memory_forgets_the_oldest():
    memory = dqn.Memory(4)
    for i in range(3):
        boards = torch.full((2, 4, SIZE, SIZE), i)
        done = torch.tensor([False, True])
        memory.add(boards, torch.tensor([i, i]), torch.ones(2), done, boards)
    before, action, _, _, _ = memory.sample(64, torch.Generator().manual_seed(0))
    assert set(action.tolist()) == {1, 2}
    assert (before.amax((1, 2, 3)) == action).all()


def test_epsilon_falls_to_a_twentieth():
    assert dqn.epsilon(0, 1000) == 1
    assert dqn.epsilon(250, 1000) == pytest.approx(0.525)
    assert [dqn.epsilon(f, 1000) for f in (500, 900)] == pytest.approx([0.05, 0.05])


@pytest.mark.parametrize("name", ["policy", "selfplay", "dqn"])
def test_records_belong_to_plans(name):
    plans, _ = record_games.EXPERIMENTS[name]
    known = {record_games.folder_of(name, p, record_games.RUNS): p for p in plans()}
    assert {*(record_games.RUNS / f"beyond-{name}").glob("*/")} == {*known}
    for run in record_games.load(name):
        plan = {k: run[k] for k in next(iter(known.values()))}
        assert plan in known.values()
        assert run["state"] == "finished"
        last = run["rows"][-1]
        counts = {"policy": run.get("updates"), "dqn": run.get("frames")}
        count = counts.get(name) or run["rounds"] * run["games"]
        steps = {"policy": "update", "selfplay": "games", "dqn": "frames"}[name]
        assert last[steps] >= 0.99 * count
        assert "dirty" not in run["commit"]


def test_a_run_is_recorded_once(tmp_path):
    about, rows = {"norm": "wn"}, [{"update": 1, "train_loss": float("nan")}]
    record_games.write(tmp_path / "beyond-policy" / "one", about, rows)
    [run] = record_games.load("policy", tmp_path)
    assert run["norm"] == "wn"
    assert np.isnan(run["rows"][0]["train_loss"])
    with pytest.raises(ValueError, match="no run"):
        record_games.load("dqn", tmp_path)


def test_paired_intervals_are_students():
    mean, half = record_games.paired([1.0, 2.0, 3.0])
    assert mean == 2
    assert half == pytest.approx(4.3027 / 3**0.5, rel=1e-4)  # t of two degrees, from a table
    assert record_games.paired([1.0]) == (1, float("inf"))


def test_a_film_shows_one_whole_game():
    boards, notes = breakout.film(lambda game: np.array([2]), seed=0)
    assert {len(board) for board in boards} == {100}
    assert (boards[0].count("2"), boards[0].count("3"), boards[0].count("4")) == (30, 1, 1)
    assert any(board[-1] == "3" for board in boards), "the paddle never gets to the wall"
    assert notes[0] == "frame 1: 0 bricks"
    assert notes[-1].endswith("the ball is lost")
    assert sum("1" not in board for board in boards) == 1, "a second game begins"
    assert len(breakout.film(lambda game: np.array([2]), seed=0, most=3)[0]) == 3


@pytest.mark.parametrize("norm", ["none", "wn"])
def test_recorded_films_are_whole_games(norm):
    plan = {"norm": norm, "rate": record_games.DQN_RATES[0], "seed": 0}
    path = record_games.folder_of("dqn", plan, record_games.RUNS) / "game.json"
    film = json.loads(path.read_text())
    assert len(film["boards"]) == len(film["notes"])
    assert film["notes"][-1].endswith("lost") or len(film["boards"]) == 400
    assert all(board.count("3") == 1 for board in film["boards"])


def test_a_grid_compares_seed_by_seed():
    curves = {
        "a": {0.1: [[0, 3.0], [0, 5.0]], 0.2: [[0, 9.0], [0, 1.0]]},
        "b": {0.1: [[0, 1.0], [0, 2.0]], 0.2: [[0, 0.0], [0, 0.0]]},
    }
    for lower, sign in ((False, 1), (True, -1)):
        grid = plots.Grid([1, 2], curves, {"a": "A", "b": "B"}, lower)
        gain, half = grid.gain(("a", 0.1), ("b", 0.1))
        assert gain == sign * 2.5
        assert half == pytest.approx(12.706 * 0.5, rel=1e-3)  # t of one degree, from a table
    assert plots.Grid([1, 2], curves, {}, lower=False).best("a", "b") == ("a", 0.2)
    assert plots.Grid([1, 2], curves, {}, lower=True).best("a", "b") == ("b", 0.2)
    assert grid.seeds == 2


def test_every_pair_of_self_taught_networks_met():
    played = record_games.played()
    assert len(played) == 3 * 2 * 3  # pairs, rates, seeds
    [game] = [
        g for g in played if (g["rate"], g["seed"]) == (0.002, 1) and "bn-he" not in g["pair"]
    ]
    plans = [dict(zip(("norm", "start"), name.split("-"), strict=True)) for name in game["pair"]]
    folders = [
        record_games.folder_of("selfplay", p | {"rate": 0.002, "seed": 1}, record_games.RUNS)
        for p in plans
    ]
    again = selfplay.score(*map(record_games.player, folders), record_games.VISITS)
    assert again == pytest.approx(game["score"], abs=0.15)  # a game may turn on the last digit


@pytest.mark.parametrize("name", ["draw", "vae", "policy", "selfplay", "dqn"])
def test_every_grid_is_whole(name):
    grid = plots.grid(name)
    assert grid.seeds == (5 if name == "dqn" else 3)
    assert len({len(rates) for rates in grid.curves.values()}) == 1
    assert len({grid.names[key] for key in grid.curves}) == len(grid.curves)
    for rates in grid.curves.values():
        assert all(len(c) == len(grid.x) for seeds in rates.values() for c in seeds)


def test_the_page_solves_as_the_solver_does(javascript):
    data = connect4.load()
    chosen = [*range(60), *np.argsort([int(m).bit_count() for m in data.mask])[:20].tolist()]
    pairs = [[str(data.mine[i]), str(data.mask[i])] for i in chosen]
    found = javascript("connect4", "pairs.map((p) => m.solve(p.map(BigInt)))", pairs=pairs)
    for pair, values in zip(pairs, found, strict=True):
        theirs = connect4.move_values(*map(int, pair), {})
        assert values == [theirs.get(column) for column in range(7)]


def test_the_page_asks_the_recorded_network(javascript):
    """The browser's tower is PyTorch's, from the same 16-bit numbers."""
    folder = record_games.folder_of("policy", record_games.PLAYER, record_games.RUNS)
    weights = np.load(folder / "weights.npy")
    data = connect4.load()
    model = tower.Tower(Norm.NONE)
    convs = [m[0] for m in (model.stem, *chain(*zip(model.first, model.second, strict=True)))]
    layers = [*convs, model.narrow[0], model.policy, model.hidden, model.value]
    numbers = [p for layer in layers for p in (layer.weight, layer.bias)]
    vector = torch.from_numpy(weights.astype(np.float32))
    assert len(vector) == sum(p.numel() for p in numbers)
    nn.utils.vector_to_parameters(vector, numbers)
    [run] = [r for r in record_games.load("policy") if {**r, **record_games.PLAYER} == r]
    accuracy, _ = tower.measure(model, data.part(slice(1000)))
    assert accuracy == pytest.approx(run["rows"][-1]["accuracy"], abs=0.01)

    few = data.part(slice(5))
    with torch.no_grad():
        logits, _ = model(few.boards)
    expected = 100 * logits.masked_fill(~few.legal.bool(), -torch.inf).softmax(1)
    pairs = [[str(a), str(b)] for a, b in zip(few.mine, few.mask, strict=True)]
    board = Connect4([(0, 0)], weights, width=16, blocks=2)
    found = javascript(
        "connect4",
        "pairs.map((p) => m.propose({ ...net, weights: m.halves(net.weights) }, p.map(BigInt)))",
        pairs=pairs,
        net=board.data["tower"],
    )
    for percents, row in zip(found, expected.tolist(), strict=True):
        assert [v or 0 for v in percents] == pytest.approx(row, abs=1e-3)
