"""Names that nothing in src, experiments or benchmarks uses, and why each stays: vulture reads them as used."""

# Called by users, or read by them from results.
_.to_table  # concepts/concept_table.py, results/result.py
_.from_columns  # ContextTable, and in examples
_.denormalize  # Preprocess
_.correlate  # evaluation's Run
_.mediated  # PathEffects
_.diagnosis  # FittedStructuralModel
_.sensitivity_p_values  # TCAVResult
_.insertion_area  # ConceptCurves
_.trace_failure  # Network: why it is replayed instead
_.localization  # Receipt
_.made_with  # SurrogateRecord, written to its file
_.spearman_absolute  # MapSimilarity
_.by_cell  # SummaryLine
_.hamming  # GraphScore
_.hsic_p  # Diagnosis
_.second_vote  # MinimalCounterfactual
_.coordinate  # attfind.Attribute
_.attributes  # AttFind
_.informativeness  # Alignment, read after asdict

# Commands, found by name.
demo
list_concepts
resume

# Read by templates.
_.skipped_count
_.ticked
_.uri

# Protocols of Python and of libraries.
__getattr__  # of a module
__dir__
__call__  # of a protocol
__class_getitem__  # what Float[...] calls
_.train_and_eval  # Captum calls it
_.extra_traceback  # torch.fx reads it
_.conv  # torch.nn registers these, and runs them in their order
_.bn
_.act
_.filename2  # of OSError

# An annotation in quotes.
ClassImages
