// The console page. It talks to the console alone, which hands requests on to the services.

import { follow } from "./changes.js";
import { arrived, start } from "./edit.js";
import { refreshStatus } from "./services.js";

refreshStatus();
follow(arrived);
start();
