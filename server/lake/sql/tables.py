"""The tables that SQL reads: those of the log, and those that the lab derives from it and from its ledger for each statement."""

from autoresearch_mcp.server.lake.schema import TABLES, Column

_TIME = "seconds since the epoch, UTC"


def _table(*columns: Column) -> dict[str, Column]:
    return {column.name: column for column in columns}


DERIVED: dict[str, dict[str, Column]] = {
    "commits": _table(
        Column("commit", "text", "what was trained"),
        Column("idea", "text", "its title; `baseline` for the lab's first"),
        Column("author", "text", "whose idea it is", nullable=True),
        Column("experiments", "integer", "trainings of it, open and ended"),
        Column("n", "integer", "replicates that count, under the champion's conditions"),
        Column("mean", "real", "of their metric", nullable=True),
        Column("sd", "real", "of their metric", nullable=True),
        Column("steps", "real", "their median", nullable=True),
        Column("gain", "real", "of the mean on the champion's; positive is better", nullable=True),
        Column("se", "real", "standard error of the gain", nullable=True),
        Column("state", "text", "where it stands beside the champion, in words"),
    ),
    "proposals": _table(
        Column("commit", "text", "made by propose_patch"),
        Column("base", "text", "the commit that it changes"),
        Column("author", "text", "whose idea it is"),
        Column("title", "text", "the idea in a few words"),
        Column("hypothesis", "text", "the idea, in the agent's words"),
        Column("kind", "text", "candidate, measurement or withdrawn"),
        Column("withdrawn", "integer", "1 where its author or the owner withdrew it"),
        Column("remarks", "text", "what was said of it later, with dates"),
        Column("tags", "list", "given by the author"),
        Column("sets", "text", "constants that it sets, as JSON, for json_extract(sets, '$.NAME')"),
        Column("ported_from", "text", "the proposal whose change it is on another base"),
        Column("insertions", "integer", "lines"),
        Column("deletions", "integer", "lines"),
        Column("created_at", "real", _TIME),
    ),
    "promotions": {
        **TABLES["promotions"],
        **_table(
            Column("kind", "text", "promotion; demotion: the owner took one back; adoption: the owner's own commit"),
            Column("idea", "text", "the new champion's title"),
            Column("idea_by", "text", "whose idea it is"),
            Column("ported_from", "text", "the proposal whose change it is on another base"),
            Column("n", "integer", "replicates of the new champion that counted", nullable=True),
            Column("m", "integer", "of the champion before", nullable=True),
            Column("mean", "real", "of the new champion's metric", nullable=True),
            Column("mean_before", "real", "of the champion's before", nullable=True),
            Column("sd", "real", "between replicates of one commit", nullable=True),
            Column("gain", "real", "of the means; positive is better", nullable=True),
            Column("se", "real", "standard error of the gain", nullable=True),
            Column("p", "real", "chance of such a gain by luck, at one look", nullable=True),
        ),
    },
    "curves": _table(
        Column("experiment", "text", "one that finished"),
        Column("commit", "text", "what was trained"),
        Column("share", "real", "of the budget, at the end of a window of 5 %"),
        Column("loss", "real", "the mean loss in it, as the training code reports"),
    ),
    "changes": _table(
        Column("at", "real", _TIME),
        Column("who", "text", "who signed it"),
        Column("role", "text", "under which it was made; empty in a lab without roles"),
        Column("way", "text", "stdio, http or command line"),
        Column("origin", "text", "with what, and whether from this machine or another; its address is the owner's to see"),
        Column("action", "text", "a tool or command"),
        Column("subject", "text", "the commits, experiments or memories that changed"),
    ),
}
"""What each statement gets rows of from the lab."""

READABLE: dict[str, dict[str, Column]] = {
    name: DERIVED.get(name) or TABLES[name]  # type: ignore[index]
    for name in ("experiments", "commits", "proposals", "promotions", "memories", "curves", "changes")
}
