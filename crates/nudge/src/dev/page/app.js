// The console page. It talks only to the console, which passes requests on to the services.

import { follow } from "./changes.js";
import { arrived, start } from "./edit.js";
import { refreshStatus } from "./services.js";

refreshStatus();
follow(arrived);
start();
