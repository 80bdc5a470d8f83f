// The console page. It talks only to the console, which passes requests on to the services.

import * as cells from "./cells.js";
import * as chaos from "./chaos.js";
import * as deadLetters from "./dead_letters.js";
import * as entity from "./entity.js";
import * as grid from "./grid.js";
import * as picture from "./picture.js";
import * as services from "./services.js";
import * as session from "./session.js";
import * as stream from "./stream.js";

// In the order in which a frame is taken: what is known first, what is drawn after it.
for (const part of [cells, picture, grid, services, deadLetters, chaos]) part.start();
let chosen = false;
stream.onFrame((frame) => {
  // An entity is chosen by the address only once it is known who owns it.
  if (chosen || !frame.view) return;
  chosen = true;
  performance.mark("shown");
  entity.start();
});
session.start();
