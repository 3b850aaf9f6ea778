"""Small random jobs for property tests: few token values, so that prompts really share prefixes."""

from hypothesis import strategies as st

from sglang_blend.core.request import RequestTable


@st.composite
def tables(
    draw: st.DrawFn, min_requests: int = 0, max_requests: int = 24, namespaces: int = 2
) -> RequestTable:
    """Tables with shared prefixes, equal prompts, one prompt inside another, and several namespaces."""
    stems = draw(st.lists(st.lists(st.integers(0, 2), max_size=40), min_size=1, max_size=4))
    one_prompt = st.tuples(
        st.sampled_from(stems), st.integers(0, 40), st.lists(st.integers(0, 2), max_size=6)
    )
    parts = draw(st.lists(one_prompt, min_size=min_requests, max_size=max_requests))
    prompts = [(stem[:cut] + tail) or [0] for stem, cut, tail in parts]
    n = len(prompts)
    lengths = st.one_of(st.integers(0, 4), st.integers(0, 3000))
    return RequestTable.from_lists(
        prompts,
        max_new_tokens=draw(st.lists(lengths, min_size=n, max_size=n)),
        fixed_output=draw(st.lists(st.booleans(), min_size=n, max_size=n)),
        namespace=draw(st.lists(st.integers(0, namespaces - 1), min_size=n, max_size=n)),
        rid=draw(st.permutations(list(range(n)))),
    )
