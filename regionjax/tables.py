"""First-match tables of path patterns: the one way to say something about every parameter.

A table is a sequence of (pattern, value). A path such as `params/decoder/layers/mlp_out/kernel`
takes the value of the first pattern that is found in it (`re.search`; `^` and `$` anchor):

    (("^params/vit/", True), (".*", False))      # the frozen parameters: the vision tower

Tables are complete and have no dead rows: a path without a pattern is an error, and so is a
pattern without a path. Only a closing `.*` may stay idle, as it says "and everything else".
"""

import re

import jax

from regionjax.config import ConfigError, nearest

EVERYTHING_ELSE = ".*"


def flatten(tree, root=""):
    """{`root/a/b`: leaf} of a nested tree, in the tree's own order."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")  # noqa: E731
    return {"/".join(filter(None, (root, name(path)))): leaf for path, leaf in leaves}


def nest(flat):
    """{"a/b": leaf} → {"a": {"b": leaf}}, the inverse of `flatten` for nested dictionaries."""
    tree = {}
    for path, leaf in flat.items():
        *scopes, name = path.split("/")
        node = tree
        for scope in scopes:
            node = node.setdefault(scope, {})
        node[name] = leaf
    return tree


def lookup(table, paths, where):
    """{path: value of the first matching pattern}.

    Args:
      table: sequence of (pattern, value).
      paths: the names to look up; the same for every table of a run.
      where: what the table is called in error messages, such as "config.optim.frozen".

    Raises:
      ConfigError: a malformed table or pattern, a path without a pattern, a pattern without a path.
    """
    rows = [_row(row, where) for row in table]
    found, used = {}, set()
    for path in paths:
        hits = [i for i, (pattern, _) in enumerate(rows) if pattern.search(path)]
        if not hits:
            patterns = [pattern.pattern for pattern, _ in rows]
            raise ConfigError(f"{where}: no pattern matches {path}{nearest(path, patterns)}")
        found[path] = rows[hits[0]][1]
        used.add(hits[0])
    for i, (pattern, _) in enumerate(rows):
        if i not in used and not (i == len(rows) - 1 and pattern.pattern == EVERYTHING_ELSE):
            raise ConfigError(f"{where}: {_why_idle(rows, i, paths)}")
    return found


def _row(row, where):
    try:
        pattern, value = row
        return re.compile(pattern), value
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {row!r} is not a row (pattern, value)") from error
    except re.error as error:
        raise ConfigError(f"{where}: {pattern!r} is not a regular expression: {error}") from error


def _why_idle(rows, i, paths):
    pattern = rows[i][0]
    for path in paths:
        if pattern.search(path):
            first = next(row for row, _ in rows if row.search(path))
            return f"pattern {pattern.pattern!r} is never reached; {first.pattern!r} comes first"
    return f"pattern {pattern.pattern!r} matches nothing{_nearest_path(pattern.pattern, paths)}"


def _nearest_path(pattern, paths):
    # All paths of a large model would bury the message, so only a near one is named.
    hint = nearest(pattern, paths)
    return hint if hint.startswith("; did you mean") else ""
