"""Write the problems of the embedded task: data/chain_sum/{train,test,longer}.jsonl.

    python data/make_problems.py

The chains come from reasoning-gym's ``chain_sum`` (single digits, 2 to 9 terms), written without blanks.
Repeated expressions are dropped before the split, so no two files share a prompt.  Every length is drawn equally
often, but for the longest: nine terms, more than the base model was pretrained on, are kept rare in train and test,
and most of them go into a file of their own.
"""

import argparse
import json
import random
from pathlib import Path

import reasoning_gym

FOLDER = Path(__file__).parent / "chain_sum"


def draw_chains(count: int, min_terms: int, max_terms: int, seed: int) -> list[dict]:
    """About ``count`` distinct chains, the same number of each length but for the longest, as far as they exist."""
    chains: dict[str, dict] = {}
    per_length = -(-count // (max_terms - min_terms + 1))
    for terms in range(min_terms, max_terms + 1):
        wanted = per_length // 2 if terms == max_terms else per_length
        # Two terms leave only 200 chains: take at most half of them, so that the loop below ends.
        wanted = min(wanted, 10**terms * 2 ** (terms - 1) // 2)
        source = reasoning_gym.create_dataset(
            "chain_sum",
            min_terms=terms,
            max_terms=terms,
            min_digits=1,
            max_digits=1,
            # reasoning-gym seeds row i with seed + i: far-apart seeds keep the lengths independent.
            seed=seed + 1_000_000 * terms,
            size=20 * per_length,
        )
        drawn: dict[str, dict] = {}
        for row in source:
            question = row["metadata"]["expression"].replace(" ", "") + "="
            drawn[question] = {"question": question, "answer": row["answer"], "num_terms": terms}
            if len(drawn) == wanted:
                break
        chains |= drawn
    return list(chains.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--train", type=int, default=4000, help="training problems, before the longest are thinned out (default 4000)"
    )
    parser.add_argument("--test", type=int, default=400, help="held-out problems, likewise (default 400)")
    parser.add_argument("--min-terms", type=int, default=2)
    parser.add_argument("--max-terms", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    chains = draw_chains(args.train + args.test + 1600, args.min_terms, args.max_terms, args.seed)
    random.Random(args.seed).shuffle(chains)
    FOLDER.mkdir(parents=True, exist_ok=True)
    splits = {"test": chains[: args.test], "train": chains[args.test : args.test + args.train], "longer": []}
    for split in ("test", "train"):
        longest = [row for row in splits[split] if row["num_terms"] == args.max_terms]
        splits["longer"] += longest[1::2]
        splits[split] = [row for row in splits[split] if row not in longest[1::2]]
    for split, rows in splits.items():
        path = FOLDER / f"{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        print(f"{path}: {len(rows)} problems")


if __name__ == "__main__":
    main()
