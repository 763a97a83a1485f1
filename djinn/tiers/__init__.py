"""Where bytes lie and how they move: device arena, host pool, copies. No policy here."""
