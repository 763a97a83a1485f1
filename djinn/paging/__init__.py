"""Virtual memory for sessions: the accounts and the policy (pure), and what carries them out."""
