"""The page of a study: tables in; figures with a sentence each, judged claims, a page out."""
