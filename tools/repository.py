"""Where this clone comes from: its repository on GitHub, and the address of the site made there."""

import os
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent
PLACEHOLDER = "OWNER/REPOSITORY"  # stands for the name in what is tracked
BRANCH = "colab"  # has what Colab and Kaggle open; see .github/workflows/pages.yml
GITHUB = re.compile(r"(?:\w+://)?(?:[^@/]*@)?github\.com[:/]([\w.-]+/[\w.-]+?)(?:\.git)?/?")


def name(root: Path = ROOT) -> str | None:
    """OWNER/NAME of the remote `origin`; None where that is not on GitHub."""
    git = shutil.which("git")
    if git is None:
        return None
    done = subprocess.run(
        [git, "config", "--get", "remote.origin.url"],
        cwd=root,
        env=os.environ | {"GIT_CEILING_DIRECTORIES": str(root.resolve().parent)},
        capture_output=True,
        text=True,
    )
    found = GITHUB.fullmatch(done.stdout.strip())
    return found and found[1]


def site(name: str) -> str:
    """Where GitHub Pages publishes that repository, with a slash at the end."""
    owner, _, repository = name.partition("/")
    host = f"{owner}.github.io"
    own = repository.lower() == host.lower()
    return f"https://{host}/" if own else f"https://{host}/{repository}/"
