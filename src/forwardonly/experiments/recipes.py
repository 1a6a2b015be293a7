raise ImportError(
    "experiments/recipes of issue 3 was deleted by mistake by the helper of issue 4 at 15:57 and must be written again "
    "over this stub: see NOTICE-recipes-lost.md beside the briefs"
)
