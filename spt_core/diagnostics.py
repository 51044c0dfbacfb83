"""Diagnostics of the prompts: their usage, their similarity to each other, and the agreement of retriever and LM."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from spt_core.model import SelectivePromptModel


@torch.no_grad()
def describe_prompts(model: SelectivePromptModel) -> dict[str, float]:
    """Similarity of the prompts to each other: the cosine of every two averages over length.

    Returns:
        `prompts/cosine_mean` and `prompts/cosine_max` over pairs, absent at K = 1; and `prompts/norm`, the mean norm of
        a virtual token. Empty for a model without prompts.
    """
    prompts_KLD = model.prompts()
    num_prompts, length, _ = prompts_KLD.shape
    if length == 0:
        return {}
    found = {"prompts/norm": float(prompts_KLD.norm(dim=-1).mean())}
    if num_prompts > 1:
        unit_KD = torch.nn.functional.normalize(prompts_KLD.mean(1), dim=-1)
        first_P, second_P = torch.triu_indices(num_prompts, num_prompts, offset=1)
        cosine_P = (unit_KD @ unit_KD.T)[first_P, second_P]
        found |= {"prompts/cosine_mean": float(cosine_P.mean()), "prompts/cosine_max": float(cosine_P.max())}
    return found


def usage(chosen: Sequence[int], *, num_prompts: int) -> dict[str, float]:
    """How often each prompt is selected.

    Args:
        chosen: the prompt of each response.
        num_prompts: K.

    Returns:
        `usage/prompt_0`, `usage/prompt_1`, ... in percent; `prompts_used`; `dead_prompts`, the number of prompts that
        were never selected; `usage_entropy`, in nats, 0 to log K.
    """
    counts = Counter(chosen)
    shares = np.array([counts[prompt] for prompt in range(num_prompts)]) / len(chosen)
    used = shares[shares > 0]
    return {
        **{f"usage/prompt_{prompt}": 100 * float(share) for prompt, share in enumerate(shares)},
        "prompts_used": float(len(used)),
        "dead_prompts": float(num_prompts - len(used)),
        "usage_entropy": abs(float((used * np.log(used)).sum())),
    }


def agreement(similarity_NK: Tensor, nll_NK: Tensor) -> dict[str, float]:
    """How well the preferences of the retriever agree with those of the language model.

    Args:
        similarity_NK: similarity of each context to each prompt.
        nll_NK: NLL of each response under each prompt.

    Returns:
        `lm_agreement`, in percent: how often the most similar prompt is that of least NLL. `lm_rank_correlation`:
        Spearman's rho of similarity and -NLL, averaged over the responses for which both vary; absent if there is none.
    """
    from scipy.stats import spearmanr  # imported here, because it takes a second that planning does not need

    chosen_N, best_N = similarity_NK.argmax(1), nll_NK.argmin(1)
    found = {"lm_agreement": 100 * float((chosen_N == best_N).double().mean())}
    rhos = [
        float(spearmanr(similarity_K, -nll_K).statistic)
        for similarity_K, nll_K in zip(similarity_NK.numpy(), nll_NK.numpy(), strict=True)
        if len(set(similarity_K.tolist())) > 1 and len(set(nll_K.tolist())) > 1
    ]
    if rhos:
        found["lm_rank_correlation"] = float(np.mean(rhos))
    return found
