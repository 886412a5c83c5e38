"""``ratematch match``: golden cases as tables, measured rates of real GPUs, and tables that are wrong."""

from __future__ import annotations

import json
from fractions import Fraction as F
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ratematch.cli import main
from ratematch.match.analysis import analyze
from ratematch.match.question import Question
from tests.support.invented import ifb_rows

GOLDEN = Path(__file__).parents[1] / "golden"
CASES: dict[str, Any] = json.loads((GOLDEN / "rate_matching.json").read_text())
HEADER = "role,label,gpus,isl,osl,concurrency,req_s,tok_s,tpot_ms,ttft_ms,mtp\n"
PLAN_KEYS = [
    *("ctx_label", "gen_label", "x", "y", "gpus", "gpus_allocated", "nodes", "req_s", "limit", "concurrency"),
    *("concurrency_per_gen", "tpot_ms", "tok_s_user", "tok_s", "tok_s_gpu", "tok_s_gpu_allocated", "ratio"),
    "clamped",
]


def match(folder: Path, text: str, *options: str) -> tuple[dict[str, Any], str]:
    file = folder / "rates.csv"
    file.write_text(text)
    done = CliRunner().invoke(main, ["match", str(file), "--json", *options])
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def refuse(folder: Path, text: str, *options: str) -> str:
    file = folder / "rates.csv"
    file.write_text(text)
    done = CliRunner().invoke(main, ["match", str(file), *options])
    assert done.exit_code == 1
    assert done.stdout == ""
    return done.stderr


G1 = HEADER + "ctx,DEP4,4,,,,4,,,,\ngen,DEP4,4,,256,128,,4608,,,\n"


@pytest.mark.parametrize("budget", ["20", "24", "44", "72"])
def test_g1_best_plan_and_number_of_plans(tmp_path: Path, budget: str) -> None:
    expect = CASES["G1"]["expect"]
    want = expect["best_per_used_gpu"][budget]
    found, _ = match(tmp_path, G1, "--max-gpus", budget)
    assert list(found) == ["rate_matched", "plans", "front", "ifb_front", "speedup"]
    best = found["plans"][0]
    assert list(best) == PLAN_KEYS
    assert (best["x"], best["y"], best["gpus"], best["limit"]) == (want["x"], want["y"], want["gpus"], want["limit"])
    assert best["req_s"] == pytest.approx(float(F(want["lambda"])), rel=1e-9)
    assert best["tok_s_gpu"] == pytest.approx(float(F(want["P"])), rel=1e-9)
    assert best["ratio"] == expect["ratio"]
    assert found["rate_matched"][0]["tok_s_gpu"] == pytest.approx(float(F(expect["P_sol"])), rel=1e-9)
    every, _ = match(tmp_path, G1, "--max-gpus", budget, "--all-plans")
    assert len(every["plans"]) == expect["cells"][budget]


def test_g1_most_tokens_in_a_budget(tmp_path: Path) -> None:
    want = CASES["G1"]["expect"]["best_tokens_per_s_with_24_gpus"]
    best = match(tmp_path, G1, "--max-gpus", "24", "--objective", "tok_s_in_budget")[0]["plans"][0]
    assert (best["x"], best["y"]) == (want["x"], want["y"])
    assert best["tok_s"] == pytest.approx(float(want["tok_s"]))


def test_g2_the_throttled_point(tmp_path: Path) -> None:
    rows = "".join(f"gen,g,8,,200,{row['C']},,{row['T']},,,\n" for row in CASES["G2"]["gen"]["curve"])
    expect = CASES["G2"]["expect"]
    found, _ = match(tmp_path, HEADER + "ctx,c,4,,,,12,,,,\n" + rows, "--max-gpus", "20", "--all-plans")
    (plan,) = [p for p in found["plans"] if (p["x"], p["y"]) == (3, 1) and p["limit"] == "ctx"]
    for key, value in (
        ("req_s", expect["lambda"]),
        ("tok_s_gpu", expect["P"]),
        ("concurrency_per_gen", expect["C_throttled"]),
        ("tpot_ms", expect["tpot_ms"]),
        ("tok_s_user", expect["u_throttled"]),
    ):
        assert plan[key] == pytest.approx(float(F(value)), rel=1e-9)
    assert not plan["clamped"]
    # The TPOT limit lies between the throttled (13.3 ms) and the full-batch point (16 ms): it filters last.
    kept, _ = match(
        tmp_path, HEADER + "ctx,c,4,,,,12,,,,\n" + rows, "--max-gpus", "20", "--all-plans", "--tpot-ms", "14"
    )
    assert plan in kept["plans"]


def test_g3_packing(tmp_path: Path) -> None:
    expect = CASES["G3"]["expect"]
    text = HEADER + "ctx,c,4,,,,5,,,,\ngen,g,8,,500,64,,6000,,,\n"
    options = ("--gpus-per-node", "8", "--nodes", "4", "--no-share-nodes")
    found, _ = match(tmp_path, text, *options, "--all-plans")
    by_xy = {(plan["x"], plan["y"]): plan for plan in found["plans"]}
    assert len(by_xy) == expect["feasible_cells"]
    for row in expect["rows"]:
        plan = by_xy[row["x"], row["y"]]
        assert (plan["nodes"], plan["limit"]) == (row["nodes"], row["limit"])
        assert plan["gpus_allocated"] == 8 * row["nodes"]
        assert plan["tok_s_gpu"] == pytest.approx(float(F(row["P_used"])), rel=1e-9)
        assert plan["tok_s_gpu_allocated"] == pytest.approx(float(F(row["P_allocated"])), rel=1e-9)
    most = match(tmp_path, text, *options, "--objective", "tok_s_in_budget")[0]["plans"][0]
    assert (most["x"], most["y"]) == (expect["max_tok_s"]["x"], expect["max_tok_s"]["y"])
    shared = match(tmp_path, text, "--gpus-per-node", "8", "--nodes", "4", "--share-nodes", "--all-plans")[0]
    assert len(shared["plans"]) == 12  # 8-GPU gen instances leave nothing of a node to share


@pytest.mark.parametrize("rule", [(), ("--ttft-of", "ctx"), ("--ttft-of", "deployment")])
@pytest.mark.parametrize("limit", ["0.5", "1.0", "3.0"])
def test_g4_the_ttft_limit(tmp_path: Path, limit: str, rule: tuple[str, ...]) -> None:
    """One row of ctx tells nothing of its queue: in service it is held to the same rule."""
    case = CASES["G4"]
    text = HEADER
    for row in case["ctx"]:
        text += f"ctx,{row['label']},{row['G']},,,,{row['R']},,,{1000 * row['ttft_s']},\n"
    for k, row in enumerate(case["gen"]):
        text += f"gen,{row['label']},{row['G']},,1000,{row['C']},,{float(row['C'] * F(case['expect']['u'][k]))},,,\n"
    found, _ = match(tmp_path, text, "--ttft-ms", str(1000 * float(limit)), *rule)
    want = case["expect"][f"ttft_{limit}"]
    rows = found["rate_matched"]
    assert {row["ctx_label"] for row in rows} == {want["ctx"]}
    assert [row["tok_s_gpu"] for row in rows] == pytest.approx([float(F(p)) for p in want["P"]], rel=1e-9)
    assert [row["ratio"] for row in rows] == want.get("ratio", [row["ratio"] for row in rows])
    front = sorted((row for row in rows if row["on_front"]), key=lambda row: row["tok_s_user"])
    assert [row["gen_label"] for row in front] == want["front"]


def test_measured_on_real_gpus(tmp_path: Path) -> None:
    text = (GOLDEN / "real_2xh200_vllm.csv").read_text()
    found, said = match(tmp_path, text, "--max-gpus", "2")
    assert "OSL 256 in rows 6-12, 15-19; OSL 1024 in rows 13-14, 20-22" in said
    assert "OSL 256 is taken" in said
    top = found["plans"][0]
    # ctx is the limit at 20.633 requests/s; gen then decodes 48 requests at 9.08 ms, not 128 at 15.8 ms.
    assert (top["limit"], top["req_s"], top["gpus"]) == ("ctx", 20.633, 2)
    assert top["concurrency_per_gen"] == pytest.approx(32 + 32 * (20.633 * 256 - 4255.32) / (6311.64 - 4255.32))
    assert top["tpot_ms"] == pytest.approx(1000 * top["concurrency_per_gen"] / (20.633 * 256))
    tight = ("--max-gpus", "4", "--ttft-ms", "80")
    alone, said = match(tmp_path, text, *tight)
    assert "--ttft-of deployment plans with the queue" in said
    served, _ = match(tmp_path, text, *tight, "--ttft-of", "deployment")
    assert all(plan["ttft_ms"] <= 80.001 for plan in served["plans"])
    # By ctx alone two servers of 17.98 requests/s feed one gen server of 31.6; in service they would take longer.
    assert (alone["plans"][0]["x"], alone["plans"][0]["y"]) == (2, 1)
    assert (served["plans"][0]["x"], served["plans"][0]["y"]) == (3, 1)
    other, _ = match(tmp_path, text, "--max-gpus", "2", "--osl", "1024")
    assert (other["plans"][0]["limit"], other["plans"][0]["tpot_ms"]) == ("gen", pytest.approx(17.55, rel=1e-3))
    assert [row["concurrency"] for row in other["ifb_front"]] == [128, 64, 16]


def test_fronts_have_no_dominated_point_and_do_not_depend_on_row_order(tmp_path: Path) -> None:
    text = (GOLDEN / "real_2xh200_vllm.csv").read_text()
    header, *rows = text.splitlines(keepends=True)
    found, _ = match(tmp_path, text)
    back, _ = match(tmp_path, header + "".join(reversed(rows)))
    assert found["front"] == back["front"]
    assert found["ifb_front"] == back["ifb_front"]
    for front in (found["front"], found["ifb_front"]):
        us, ps = [row["tok_s_user"] for row in front], [row["tok_s_gpu"] for row in front]
        assert us == sorted(set(us))
        assert ps == sorted(set(ps), reverse=True)


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("", (), "the table is empty"),
        ("role,gpus\nctx,4\n", (), "row 1: no column 'label'"),
        ("role,label,gpus\nctx,a,4\n", (), "row 1: no column 'req_s'"),
        ("label,isl\na,4\n", (), "row 1: no column 'role' and no column 'gpus'"),
        (G1.replace(",", ";"), (), "row 1: columns are separated by semicolons"),
        (G1.replace("4,,,,\n", "4,,,900,\n"), ("--ttft-ms", "100"), "no ctx row is within TTFT 100 ms"),
        (HEADER, (), "no row below the header"),
        (G1 + "gen,DEP4,4,,256,64,,0,,,\n", (), "row 4: tok_s is 0"),
        (G1 + "gen,DEP4,4,,256,64,,-3,,,\n", (), "row 4: tok_s is -3"),
        (G1 + "gen,DEP4,4,,256,64,,nan,,,\n", (), "row 4: tok_s is nan"),
        (G1 + "gen,DEP4,4,,256,64,,fast,,,\n", (), "row 4: tok_s 'fast' is not a number"),
        (G1 + "gen,DEP4,4,,256,64,,1e308,,,\n", (), "row 4: tok_s is 1e+308"),
        (G1 + "gen,DEP4,400000,,256,64,,90,,,\n", (), "row 4: gpus is 400000"),
        (G1 + "gen,DEP4,4,,256,,,9,,,\n", (), "row 4: no concurrency"),
        (G1 + "gen,DEP4,4.5,,256,2,,9,,,\n", (), "row 4: gpus is 4.5"),
        (G1 + "both,DEP4,4,,256,2,,9,,,\n", (), "row 4: role 'both' is not known"),
        (G1 + "gen,DEP4,4,,256,2,,9,,,,8\n", (), "row 4: 12 cells under 11 columns"),
        (G1, ("--ttft-ms", "100"), "row 2: no ttft_ms"),
        (G1, ("--osl", "100"), "no gen or ifb row has OSL 100"),
        (G1, ("--nodes", "2"), "--nodes needs --gpus-per-node"),
        (HEADER + "ctx,a,4,1024,,,4,,,,\n", (), "no gen or ifb row has an osl"),
        (
            HEADER + "ctx,a,4,1024,,,4,,,,\ngen,b,4,2048,256,8,,90,,,\n",
            (),
            "ISL 1024 in row 2; ISL 2048 in row 3",
        ),
        (
            "role,label,gpus,osl,concurrency,req_s,tok_s,emulated\nctx,a,4,,,4,,true\ngen,b,4,256,8,,90,false\n",
            (),
            "emulated and real rates never share a front: true in row 2; false in row 3",
        ),
    ],
)
def test_a_wrong_table_gets_one_message_with_its_row(
    tmp_path: Path, text: str, options: tuple[str, ...], said: str
) -> None:
    message = refuse(tmp_path, text, *options)
    assert said in message
    assert "Traceback" not in message


def test_every_problem_of_a_table_is_named_at_once(tmp_path: Path) -> None:
    message = refuse(tmp_path, G1 + "gen,a,4,,256,2,,-1,,,\nctx,a,0,,,,3,,,,\n")
    assert "row 4: tok_s is -1" in message
    assert "row 5: gpus is 0" in message


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["match", str(tmp_path / "none.csv")])
    assert done.exit_code == 1
    assert "cannot be read" in done.stderr


CURVE = "gen,g,4,,256,{},,{},,,\n"


def test_repeats_with_other_values_are_averaged_and_said(tmp_path: Path) -> None:
    rows = "".join(CURVE.format(c, t * f) for c, t in ((8, 100), (16, 150)) for f in (0.99, 1, 1.01))
    ifb = "ifb,i,4,,256,4,,60,40,100,\nifb,i,4,,256,32,,160,150,900,\n"
    found, said = match(tmp_path, HEADER + "ctx,c,4,,,,4,,,,\n" + rows + ifb)
    assert "rows 3-5: gen g at concurrency 8 is there 3 times, 2.0% apart, averaged" in said
    assert next(row for row in found["rate_matched"] if row["concurrency"] == 8)["tok_s_user"] == pytest.approx(12.5)
    assert list(found) == ["rate_matched", "plans", "front", "ifb_front", "speedup"]
    shown = CliRunner(env={"COLUMNS": "80"}).invoke(main, ["match", str(tmp_path / "rates.csv")]).stdout
    sure = shown[shown.index("how sure the front is") :].splitlines()[3]
    # What is told: the row, its score, "low to high", the ideal ratio, its "low to high", the chance.
    name, score, low, _, high, ratio, ratio_low, _, ratio_high, chance = sure.split()
    assert name == "{x}x{ctx_label}+{y}x{gen_label}".format(**found["front"][0])
    assert float(low) < float(score) < float(high)
    assert float(ratio_low) < float(F(ratio)) < float(ratio_high)
    assert chance.endswith("%")
    known = [row for row in found["speedup"] if row["linear_low"] is not None]
    assert known
    for row in known:
        assert row["linear_low"] < row["linear"] < row["linear_high"]


def test_a_falling_curve_and_a_single_point_are_flagged(tmp_path: Path) -> None:
    ctx = HEADER + "ctx,c,4,,,,4,,,,\n"
    _, said = match(tmp_path, ctx + CURVE.format(8, 100) + CURVE.format(16, 90))
    assert "row 4: tok/s of gen g falls as concurrency grows" in said
    found, said = match(tmp_path, ctx + CURVE.format(8, 10000), "--all-plans")
    assert "row 3: one point only of gen g" in said
    assert [plan["clamped"] for plan in found["plans"] if plan["limit"] == "ctx"].count(False) == 0


def test_a_label_of_other_gpus_is_said_once(tmp_path: Path) -> None:
    rows = "gen,TEP8PP2,4,,256,8,,100,80,,\ngen,TEP8PP2,4,,256,16,,160,100,,\ngen,DEP4,4,,256,8,,100,80,,\n"
    _, said = match(tmp_path, HEADER + "ctx,DEP4,8,,,,4,,,,\nctx,the fast one,8,,,,4,,,,\n" + rows)
    assert "row 2: DEP4 is 4 GPUs by its name, and gpus is 8, which is used" in said
    assert "rows 4-5: TEP8PP2 is 16 GPUs by its name, and gpus is 4, which is used" in said
    assert said.count("by its name") == 2


def test_a_row_that_contradicts_itself_is_said(tmp_path: Path) -> None:
    rows = "gen,g,4,,256,8,,100,50,,\nifb,i,4,,256,8,3,100,40,100,\n"
    _, said = match(tmp_path, HEADER + "ctx,c,4,,,,4,,,,\n" + rows)
    assert "row 3 (gen g): tpot_ms 50 is not concurrency / tok_s = 80 ms" in said
    assert "row 4 (ifb i): 100 tok/s is not 3 requests/s x 256" in said
    assert "Little's law" in said


def test_the_ctx_of_another_mtp_is_an_assumption(tmp_path: Path) -> None:
    rows = "ctx,c,4,,,,4,,,,0\nctx,d,4,,,,3,,,,1\ngen,g,4,,256,8,,100,,,1\ngen,h,4,,256,8,,140,,,3\n"
    found, said = match(tmp_path, HEADER + rows)
    assert {(plan["ctx_label"], plan["gen_label"]) for plan in found["plans"]} == {("d", "g"), ("d", "h")}
    assert "row 5: no ctx row with mtp=3; matched with mtp=1" in said


def test_extra_columns_are_kept(tmp_path: Path) -> None:
    text = HEADER.replace("mtp\n", "mtp,date\n") + "ctx,c,4,,,,4,,,,0,mon\ngen,g,4,,256,8,,100,,,0,tue\n"
    assert match(tmp_path, text)[0]["rate_matched"][0]["extra"] == {"date": "tue"}


def test_nothing_within_the_limits_is_said(tmp_path: Path) -> None:
    found, said = match(tmp_path, G1, "--max-gpus", "4")
    assert found["plans"] == []
    assert "no plan within 4 GPUs" in said


def test_a_concurrency_is_predicted_in_closed_loop(tmp_path: Path) -> None:
    text = (GOLDEN / "real_2xh200_vllm.csv").read_text()
    found, _ = match(tmp_path, text, "--max-gpus", "2", "--concurrency", "16,64,128")
    rows = found["closed_loop"]
    assert [row["concurrency"] for row in rows] == [16, 64, 128]
    for row in rows:
        held = row["req_s"] * (row["ttft_ms"] + 256 * row["tpot_ms"]) / 1000
        assert held == pytest.approx(row["concurrency"])
    # Below the limit one prompt at a time is in ctx: its TTFT is that of the lone prompt. Beyond it only TTFT grows.
    assert rows[0]["limit"] is None
    assert rows[0]["ttft_ms"] == pytest.approx(1000 / 17.977, rel=1e-6)
    assert [(row["limit"], row["req_s"]) for row in rows[1:]] == [("ctx", 20.633), ("ctx", 20.633)]
    assert rows[1]["tpot_ms"] == rows[2]["tpot_ms"] == found["plans"][0]["tpot_ms"]
    assert rows[2]["ttft_ms"] - rows[1]["ttft_ms"] == pytest.approx(64 / 20.633 * 1000)


def test_a_concurrency_without_known_prompts_in_flight_is_said(tmp_path: Path) -> None:
    found, said = match(tmp_path, G1, "--concurrency", "4")
    assert "closed_loop" not in found
    assert "row 2: no concurrency and no ttft_ms" in said
    done = CliRunner().invoke(main, ["match", "x.csv", "--concurrency", "4,x"])
    assert done.exit_code == 1
    assert "'4,x': whole numbers above 0" in done.stderr


@pytest.mark.parametrize(("objective", "shown"), [("per_allocated_gpu", "240"), ("tok_s_in_budget", "7680")])
def test_the_terminal_shows_what_plans_are_ordered_by(tmp_path: Path, objective: str, shown: str) -> None:
    """3 ctx and 1 gen fill four nodes: 15 requests/s of 512 tokens on 32 GPUs."""
    file = tmp_path / "rates.csv"
    file.write_text(HEADER + "ctx,c,8,,,,5,,,,\ngen,g,8,,512,64,,7680,,,\n")
    options = ("--gpus-per-node", "8", "--nodes", "4", "--objective", objective)
    done = CliRunner(env={"COLUMNS": "100"}).invoke(main, ["match", str(file), *options])
    assert done.exit_code == 0
    line = next(line for line in done.stdout.splitlines() if line.startswith("3xc+1xg"))
    assert line.split()[-2:] == [shown, "3/1"]


@pytest.mark.parametrize(
    ("gpus", "score"), [(3, 150.0), (6, 75.0), (4, 150.0), (5, 75.0), (8, 75.0), (12, 37.5), (16, 37.5)]
)
def test_an_aggregated_server_scores_in_a_table_what_it_scores_in_a_sweep(
    tmp_path: Path, gpus: int, score: float
) -> None:
    """600 tok/s on nodes of eight GPUs: two servers of three share a node, one of six has it for itself."""
    rows = ifb_rows(f"TP{gpus}", {6: (10, 10)})
    question = Question(max_gpus=32, objective="per_allocated_gpu", gpus_per_node=8, nodes=4, share_nodes=False)
    (point,) = analyze(rows, question, sweep="s").workloads[0].ifb
    assert (point.tok_s, point.tok_s_gpu) == (pytest.approx(600), pytest.approx(score))

    text = HEADER + "ctx,c,8,,,,5,,,,\ngen,g,8,,512,32,,5120,,,\ngen,g,8,,512,64,,7680,,,\n"
    text += f"ifb,agg,{gpus},,512,6,,600,7.5,,\n"
    options = ("--gpus-per-node", "8", "--nodes", "4", "--objective", "per_allocated_gpu")
    found, _ = match(tmp_path, text, *options)
    (speedup,) = found["speedup"]
    best = max(plan["tok_s_gpu_allocated"] for plan in found["front"] if plan["tok_s_user"] >= speedup["tok_s_user"])
    assert best / speedup["step"] == pytest.approx(score)
    done = CliRunner(env={"COLUMNS": "100"}).invoke(main, ["match", str(tmp_path / "rates.csv"), *options])
    line = next(line for line in done.stdout.splitlines() if line.startswith("agg"))
    assert float(line.split()[-1]) == pytest.approx(score, rel=1e-2)


def test_an_aggregated_server_larger_than_the_budget_is_on_no_front(tmp_path: Path) -> None:
    """As in a sweep: none of it fits, so there is nothing to compare with."""
    text = HEADER + "ctx,c,4,,,,5,,,,\ngen,g,4,,512,32,,5120,,,\n"
    small, large = "ifb,small,4,,512,8,,600,8,,\n", "ifb,large,16,,512,4,,900,5,,\n"
    options = ("--max-gpus", "8", "--objective", "tok_s_in_budget")
    alone, _ = match(tmp_path, text + small, *options)
    both, said = match(tmp_path, text + small + large, *options)
    assert [row["label"] for row in both["ifb_front"]] == ["small"]
    assert both["speedup"] == alone["speedup"]
    assert "row 5: ifb on more than the budget of 8 GPUs, not on the front" in said


REAL = (GOLDEN / "real_2xh200_vllm.csv").read_text()


@pytest.mark.parametrize(
    ("options", "cell", "req_s", "loaded", "tok_s_gpu"),
    [
        # ctx with 4 prompts in flight: 20.115 requests/s, T' = 20.115 x 256 = 5149.44 tok/s of one gen server,
        # between C = 32 (4255.32) and 64 (6311.64): C* = 32 + 32 x 894.12 / 2056.32 = 45.914. P = T' / 2 GPUs.
        (("--osl", "256", "--max-gpus", "2"), (1, 1), 20.115, 45.914, 2574.72),
        # With one prompt: 17.977 requests/s, T' = 4602.112, C* = 32 + 32 x 346.792 / 2056.32 = 37.397.
        (("--osl", "256", "--max-gpus", "2"), (1, 1), 17.977, 37.397, 2301.056),
        # Three gen servers: T' = 17.977 x 1024 / 3 = 6136.149 each, between C = 64 (5765.77) and 128 (7293.45):
        # C* = 64 + 64 x 370.379 / 1527.68 = 79.517. P = 17.977 x 1024 / 4 GPUs.
        (("--osl", "1024", "--max-gpus", "4"), (1, 3), 17.977, 79.517, 4602.112),
    ],
)
def test_a_ctx_row_with_fewer_prompts_in_flight_is_a_plan_too(
    tmp_path: Path, options: tuple[str, ...], cell: tuple[int, int], req_s: float, loaded: float, tok_s_gpu: float
) -> None:
    """As in a sweep. Its row for the front is faster per user than that of the best ctx row."""
    front = match(tmp_path, REAL, *options)[0]["front"]
    (row,) = [row for row in front if (row["x"], row["y"]) == cell and row["req_s"] == pytest.approx(req_s)]
    assert row["limit"] == "ctx"
    assert row["concurrency_per_gen"] == pytest.approx(loaded, rel=1e-4)
    assert row["tpot_ms"] == pytest.approx(1000 * loaded / (tok_s_gpu * sum(cell) / cell[1]), rel=1e-4)
    assert row["tok_s_gpu"] == pytest.approx(tok_s_gpu)


def test_a_ctx_configuration_that_another_beats_in_everything_is_on_no_front(tmp_path: Path) -> None:
    """Its plans are listed, its points would only be those of the better one with idle ctx servers."""
    better, beaten = "ctx,c,4,,,,8,,,100,\n", "ctx,d,4,,,,6,,,120,\n"
    gen = CURVE.format(8, 1000) + CURVE.format(32, 3000)
    alone, _ = match(tmp_path, HEADER + better + gen)
    both, said = match(tmp_path, HEADER + better + beaten + gen)
    assert both["front"] == alone["front"]
    assert {plan["ctx_label"] for plan in both["plans"]} == {"c", "d"}
    assert "row 3: another ctx configuration has no more GPUs, no fewer requests/s and no longer TTFT" in said
    # What is not known is not judged: without their TTFT the rows of both stay.
    text = HEADER + better.replace("100", "") + beaten.replace("120", "") + gen
    unknown, said = match(tmp_path, text, "--max-gpus", "8")
    assert {plan["ctx_label"] for plan in unknown["front"]} == {"c", "d"}
    assert "on no front" not in said


def test_ctx_rows_beyond_the_best_one_are_overload(tmp_path: Path) -> None:
    """20.565 requests/s with 64 prompts in flight do not pull down the 20.633 with 16."""
    header, *rows = REAL.splitlines(keepends=True)
    without = header + "".join(row for row in rows if "20.565" not in row)
    assert match(tmp_path, REAL)[0]["front"] == match(tmp_path, without)[0]["front"]
