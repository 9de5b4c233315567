"""The bundled model: its world of drawn pictures, how it is made, and how its pictures are measured."""
